"""What a search found, for people and for scripts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from inhouse.cli.common import table

from .study import Row
from .subject import Value, text


def show_table(rows: Sequence[Row], names: Sequence[str]) -> None:
    """A line for each trial."""
    header = ("trial", *names, "held-out loss", "at step", "seconds", "state")
    table([_cells(row, names) for row in rows], header)


def show_best(best: Row, own: Row | None, importance: Mapping[str, float]) -> None:
    """The winner, beside the recipe's own setting where that was tried to its end."""
    click.echo(f"\nbest: trial {best.number}, held-out loss {_loss(best)} at step {best.at}{_beside(best, own)}")
    if importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importance.items())
        click.echo(f"what decides it: {shares}")


def paste(recipe: str, sets: Sequence[str], home: str | None) -> str:
    """The command that runs the recipe with the winner, as a shell reads it."""
    words = ["inhouse", "run", recipe, *(word for each in sets for word in ("--set", each))]
    return shlex.join([*words, "--home", home] if home else words)


def as_data(row: Row) -> dict[str, Any]:
    """A trial for scripts."""
    return {
        "number": row.number,
        "params": dict(row.params),
        "heldout_loss": row.heldout_loss,
        "at": row.at,
        "seconds": row.seconds,
        "state": row.state,
        "reason": row.reason,
        "curve": [list(each) for each in row.curve],
        "fingerprint": row.key,
    }


def _cells(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    values = (_shown(row.params[name]) if name in row.params else "" for name in names)
    state = f"{row.state}: {row.reason}" if row.reason else row.state
    return (str(row.number), *values, _loss(row), "" if row.at is None else str(row.at), f"{row.seconds:.1f}", state)


def _beside(best: Row, own: Row | None) -> str:
    if own is None or own.heldout_loss is None or own.state != "done":
        return ""
    if own.number == best.number:
        return " (the recipe's own setting)"
    return f" (the recipe's own setting, trial {own.number}: {_loss(own)})"


def _loss(row: Row) -> str:
    return "" if row.heldout_loss is None else f"{row.heldout_loss:.4f}"


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else text(value)
