"""How fast training is: ``python tests/bench/train.py``, or ``make bench-train``.

Every measurement is a process of its own, ours and the peers' in turns, so that a busy machine slows all of
them. Before anything is measured both sides have to compute the same. Peers run in .venv-bench
(contrib/dev/bench.sh). A row's figure is the median over the repeats; a ratio is the median of the ratios
within each repeat.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import import_module
from pathlib import Path

from attrs import asdict
from training import GROUPS
from training.measure import FOLDER, PEERS, ROOT, TEXT, BenchError, Row, Settings, Works

from inhouse.artifacts import write_text

PEER_SECONDS = 120.0
"""Most seconds of one peer process: a peer that is slow on this machine trains fewer steps."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=GROUPS, help="one group of works")
    parser.add_argument("--repeats", type=int, help="turns (default: the group's)")
    parser.add_argument("--steps", type=int, help="timed optimizer steps of each process (default: the group's)")
    parser.add_argument(
        "--data", type=Path, default=TEXT, metavar="PATH", help=f"pre-training text (default: {TEXT.name})"
    )
    parser.add_argument("--quick", action="store_true", help="one turn of few steps: whether it works, not how fast")
    parser.add_argument("--profile", action="store_true", help="at the end, where our time goes by operator")
    asked = parser.parse_args()
    if any(count is not None and count < 1 for count in (asked.repeats, asked.steps)):
        parser.error("--repeats and --steps have to be at least 1")
    return asked


def table(rows: list[Row]) -> None:
    """Prints the rows."""
    print(f"\n{'work':53}{'against':25}{'ours':>13}{'peer':>9}{'ratio':>8}  {'goal':14} met")
    for row in rows:
        ours, met = f"{_shown(row.ours)} {row.unit}", "yes" if row.met else "NO"
        print(f"{row.work:53}{row.against:25}{ours:>13}{_shown(row.peer):>9}{row.ratio:>8.3f}  {row.goal:14} {met}")


def _shown(figure: float) -> str:
    """Three digits, or all before the point."""
    return f"{figure:.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def save(target: Path, rows: list[Row]) -> None:
    """Writes ``rows``; those of works that were measured at another time (``--only``) stay."""
    works = {row.work for row in rows}
    old = json.loads(target.read_text()) if target.exists() else []
    kept = [row for row in old if row["work"] not in works]
    write_text(target, json.dumps([*kept, *map(asdict, rows)], indent=1) + "\n")


def main() -> None:
    """Measures, prints the table and writes it to ``build/bench/train.json`` (``train-quick.json``)."""
    asked = arguments()
    if not PEERS.exists():
        sys.exit("the peers' environment is missing: run contrib/dev/bench.sh, or make bench-train")
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / ("train-quick.json" if asked.quick else "train.json")
    rows: list[Row] = []
    print(f"Python {platform.python_version()}, {platform.processor() or platform.machine()}")
    for name in GROUPS if asked.only is None else (asked.only,):
        group: Works = import_module(f"training.{name}").GROUP
        steps = asked.steps or (group.quick_steps if asked.quick else group.steps)
        repeats = 1 if asked.quick else asked.repeats or group.repeats
        print(f"{name}: {repeats} times {steps} steps after {group.warmup} that are not timed", flush=True)
        try:
            rows += group.rows(Settings(repeats, steps, group.warmup, PEER_SECONDS, asked.profile, asked.data))
        except BenchError as error:
            sys.exit(f"error: {error}")
        save(target, rows)  # what there is, if the next one fails
    table(rows)
    print(f"written: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
