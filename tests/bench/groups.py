"""The command line of a benchmark that is a package of groups, each a module with ``measure(quick)``."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from train import save, table
from training.measure import FOLDER, BenchError, Row


def run(about: str, name: str, package: str, groups: Sequence[str], versions: Sequence[str]) -> None:
    """Measures, prints the table and writes it to ``build/bench/NAME.json`` (``NAME-quick.json``).

    ``about`` is the program's docstring; ``versions`` are the distributions whose version is printed.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--only", choices=groups, help="one group of works")
    parser.add_argument("--quick", action="store_true", help="little of everything: whether it works, not how well")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / (f"{name}-quick.json" if asked.quick else f"{name}.json")
    told = ", ".join(f"{each} {version(each)}" for each in versions)
    print(f"Python {platform.python_version()}, {platform.processor() or platform.machine()}; {told}")
    rows: list[Row] = []
    for group in groups if asked.only is None else (asked.only,):
        print(f"{group}:", flush=True)
        try:
            rows += import_module(f"{package}.{group}").measure(asked.quick)
        except BenchError as error:
            sys.exit(f"error: {error}")
        save(target, rows)
    table(rows)
    print(f"written: {target.relative_to(FOLDER.parents[1])}")
