"""What commands share: options, JSON, tables."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

import click
import structlog

from inhouse import codec
from inhouse.kernel import Kernel
from inhouse.recipe import Recipe

LIBRARIES_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Libraries of plugins that would write to the standard error that belongs to this command line."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
set_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Lay a value over the recipe, e.g. finetune.lora.rank=8."
)
home_option = click.option("--home", type=click.Path(), help="Where artifacts and runs lie (INHOUSE_HOME, ./.inhouse).")


def open_kernel(home: str | None, *, verbose: bool = False) -> Kernel:
    """The kernel, with log lines on standard error only when asked for."""
    for name, value in LIBRARIES_QUIET.items():
        os.environ.setdefault(name, value)
    level = logging.INFO if verbose else logging.ERROR
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S"),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return Kernel(home)


def load_recipe(path: str, sets: Sequence[str]) -> Recipe:
    """The recipe; seals the process off the network unless the recipe says otherwise."""
    recipe = Recipe.load(path, set=sets)
    if not recipe.run.network:
        from inhouse.sealed import seal

        seal()
    return recipe


def stop_on_interrupt() -> threading.Event:
    """An event that the first Ctrl-C sets, for work that stops between two units; the second stops at once."""
    cancel = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        os.write(2, b"stopping after the current unit of work; press Ctrl-C again to stop at once\n")

    signal.signal(signal.SIGINT, stop)
    return cancel


def emit(value: Any) -> None:
    """JSON on standard output."""
    click.echo(codec.dumps(value, indent=2))


def table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> None:
    """A plain aligned table on standard output."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
