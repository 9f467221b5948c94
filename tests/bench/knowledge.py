"""What a knowledge base costs and how well it is searched: ``python tests/bench/knowledge.py``, or ``make bench-knowledge``.

Ours and the peers are measured in turns, and before anything is timed both sides have to find the same. Peers are in
.venv-bench (contrib/dev/bench.sh). Nothing goes on the network.
"""

from __future__ import annotations

from groups import run
from knowing import GROUPS

if __name__ == "__main__":
    run(__doc__, "knowledge", "knowing", GROUPS, ("torch", "hnswlib", "psycopg", "numpy"))
