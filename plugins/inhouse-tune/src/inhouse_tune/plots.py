"""The picture of a search: loss curves of all trials, and the loss over each option. A PNG, drawn off screen."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from inhouse.artifacts import sync_folder

from .space import Parameter
from .study import Row
from .subject import text

# Two blues and an orange that differ in lightness, so that they are told apart without colour vision.
PLAIN, BEST, CUT, INK = "#9db4d0", "#d9822b", "#a7aeb8", "#333a44"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that the layout is the same everywhere
    "font.size": 9.0,
    "text.parse_math": False,  # a name with $ is a name
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
_COLUMNS = 3
_FAR = 10.0
"""Losses this many times apart are drawn on a logarithmic axis."""


def draw(rows: Sequence[Row], best: Row, space: Sequence[Parameter], title: str) -> bytes:
    """A PNG: curves above (optimiser steps, nats per token), one panel for each option below."""
    measured = [each for each in rows if each.heldout_loss is not None]
    lines = -(-len(space) // _COLUMNS)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 3.4 + 2.5 * lines), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(1 + lines, _COLUMNS)
        above = figure.add_subplot(grid[0, :])
        _curves(above, measured, best)
        above.set_title(title, loc="left", fontsize=9)
        for place, parameter in enumerate(space):
            axes = figure.add_subplot(grid[1 + place // _COLUMNS, place % _COLUMNS])
            _against(axes, measured, best, parameter)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def write(path: Path, data: bytes) -> None:
    """Writes aside, fsyncs, renames."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def _curves(axes: Any, rows: Sequence[Row], best: Row) -> None:
    labels = {"done": "to the end", "cut short": "cut short", "failed": "failed"}
    for row in sorted(rows, key=lambda each: each.number == best.number):  # the best on top
        curve = row.curve or (((row.at or 0), row.heldout_loss or 0.0),)
        first = row.number == best.number
        label = f"trial {best.number}, the best" if first else labels.pop(row.state, None)
        axes.plot(
            *zip(*curve, strict=True),
            color=BEST if first else PLAIN if row.state == "done" else CUT,
            linewidth=2.2 if first else 1.1,
            linestyle="-" if row.state == "done" else "--",
            marker="o",
            markersize=3,
            label=label,
        )
    _scaled(axes, [loss for row in rows for _, loss in row.curve])
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(frameon=False)


def _against(axes: Any, rows: Sequence[Row], best: Row, parameter: Parameter) -> None:
    places = {value: place for place, value in enumerate(parameter.choices)}
    for row in rows:
        value = row.params[parameter.name]
        first = row.number == best.number
        axes.plot(
            places[value] if places else value,
            row.heldout_loss,
            color=BEST if first else PLAIN if row.state == "done" else CUT,
            marker="o" if row.state == "done" else "x",
            markersize=8 if first else 5,
            zorder=3 if first else 2,
        )
    if places:
        axes.set_xticks(range(len(places)), [text(each) for each in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif parameter.log:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
        axes.set_xlim(parameter.low, parameter.high)
    _scaled(axes, [row.heldout_loss for row in rows if row.heldout_loss is not None])
    axes.set_xlabel(parameter.name)
    axes.set_ylabel("held-out loss")


def _scaled(axes: Any, losses: Sequence[float]) -> None:
    if losses and min(losses) > 0 and max(losses) / min(losses) > _FAR:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)


def _plain_ticks(axis: Any) -> None:
    """Powers of ten as numbers: the usual labels are formulas, which are not read as such here."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
