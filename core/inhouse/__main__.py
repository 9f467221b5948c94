"""``python -m inhouse``"""

from inhouse.cli import main

main()
