"""What quantising costs and what keeps it small: ``python tests/bench/quantize.py``, or ``make bench-quantize``.

Programs are measured in turns, ours and the peers', and before anything is timed both sides have to write the same.
Peers are in .venv-bench and build/llama.cpp (contrib/dev/bench.sh and bench-llama.sh).
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import import_module
from importlib.metadata import version

from quantizing import GROUPS
from train import save, table
from training.measure import FOLDER, BenchError, Row


def main() -> None:
    """Measures, prints the table and writes it to ``build/bench/quantize.json`` (``quantize-quick.json``)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=GROUPS, help="one group of works")
    parser.add_argument("--quick", action="store_true", help="little of everything: whether it works, not how well")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / ("quantize-quick.json" if asked.quick else "quantize.json")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "peft", "gguf", "llama_cpp_python"))
    print(f"Python {platform.python_version()}, {platform.processor() or platform.machine()}; {versions}")
    rows: list[Row] = []
    for name in GROUPS if asked.only is None else (asked.only,):
        print(f"{name}:", flush=True)
        try:
            rows += import_module(f"quantizing.{name}").measure(asked.quick)
        except BenchError as error:
            sys.exit(f"error: {error}")
        save(target, rows)
    table(rows)
    print(f"written: {target.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    main()
