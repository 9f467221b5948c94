"""What quantising costs and what keeps it small: ``python tests/bench/quantize.py``, or ``make bench-quantize``.

Programs are measured in turns, ours and the peers', and before anything is timed both sides have to write the same.
Peers are in .venv-bench and build/llama.cpp (contrib/dev/bench.sh and bench-llama.sh).
"""

from __future__ import annotations

from groups import run
from quantizing import GROUPS

if __name__ == "__main__":
    run(__doc__, "quantize", "quantizing", GROUPS, ("torch", "peft", "gguf", "llama_cpp_python"))
