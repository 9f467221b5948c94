"""What a knowledge base costs and how well it is searched: ``python tests/bench/knowledge.py``, or ``make bench-knowledge``.

Ours and the peers are measured in turns, and before anything is timed both sides have to find the same. Peers are in
.venv-bench (contrib/dev/bench.sh). Nothing goes on the network.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import import_module
from importlib.metadata import version

from knowing import GROUPS
from train import save, table
from training.measure import FOLDER, BenchError, Row


def main() -> None:
    """Measures, prints the table and writes it to ``build/bench/knowledge.json`` (``knowledge-quick.json``)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=GROUPS, help="one group of works")
    parser.add_argument("--quick", action="store_true", help="little of everything: whether it works, not how well")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / ("knowledge-quick.json" if asked.quick else "knowledge.json")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "hnswlib", "psycopg", "numpy"))
    print(f"Python {platform.python_version()}, {platform.processor() or platform.machine()}; {versions}")
    rows: list[Row] = []
    for name in GROUPS if asked.only is None else (asked.only,):
        print(f"{name}:", flush=True)
        try:
            rows += import_module(f"knowing.{name}").measure(asked.quick)
        except BenchError as error:
            sys.exit(f"error: {error}")
        save(target, rows)
    table(rows)
    print(f"written: {target.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    main()
