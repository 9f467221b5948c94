"""The report's plots: SVG to be put into the page, the same bytes for the same figures."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from inhouse.values import StepRecord

from .figures import Curve, Figures
from .words import duration

# Two blues and an orange that differ in lightness, so that they are told apart without colour vision.
PLAIN, DEPLOYED, SECOND, INK = "#9db4d0", "#4a86c5", "#d9822b", "#333a44"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, and the page's font
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that the layout is the same everywhere
    "font.size": 9.0,
    "text.parse_math": False,  # a name with $ is a name
    "text.color": INK,
    "axes.edgecolor": "#b8c0cb",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
_LONGEST = 28  # characters of a name in a plot
_TICKS = re.compile(r"[^\x20-\x7e\u00a0-\uffff]")


def solved_chart(models: Sequence[Figures], confidence: float | None) -> str | None:
    """Bars of the share of tasks solved, with whiskers for the interval; None without figures."""
    shown = [(model, model.share) for model in models if model.share is not None]
    if not shown:
        return None
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "solved"}):
        figure = Figure(figsize=(8.6, 0.7 + 0.48 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        for row, (model, share) in enumerate(shown):
            axes.barh(row, share, height=0.6, color=DEPLOYED if model.deployed else PLAIN)
            low, high = model.low, model.high
            if low is not None and high is not None:
                errors = [[max(0.0, share - low)], [max(0.0, high - share)]]
                axes.errorbar(share, row, xerr=errors, color=INK, capsize=4, linewidth=1.2)
            axes.text(max(share, high or 0.0) + 0.015, row, f"{100 * share:.0f} %", va="center")
        axes.set_yticks(range(len(shown)), [_name(model.label) for model, _ in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        interval = f"; whiskers: {100 * confidence:.0f} % interval" if confidence else ""
        axes.set_xlabel(f"held-out tasks solved{interval}")
        return _svg(figure, "solved", "Share of held-out tasks solved by each model")


def seconds_chart(steps: Sequence[StepRecord]) -> str | None:
    """Bars of the seconds each step took when it was made; None without steps."""
    if not steps:
        return None
    longest = max(step.made_seconds for step in steps) or 1.0
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "seconds"}):
        figure = Figure(figsize=(8.6, 0.7 + 0.36 * len(steps)), layout="constrained")
        axes = figure.add_subplot()
        for row, step in enumerate(steps):
            axes.barh(row, step.made_seconds, height=0.6, color=DEPLOYED)
            axes.text(step.made_seconds + longest * 0.012, row, duration(step.made_seconds), va="center")
        axes.set_yticks(range(len(steps)), [_name(f"{step.name} ({step.backend})") for step in steps])
        axes.invert_yaxis()
        axes.set_xlim(0, longest * 1.14)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("seconds")
        return _svg(figure, "seconds", "Seconds each step took")


def loss_chart(curves: Sequence[Curve]) -> str | None:
    """Training and held-out loss over optimiser steps, one panel a trainer; None without curves."""
    if not curves:
        return None
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "loss"}):
        figure = Figure(figsize=(8.6, 2.6 * len(curves)), layout="constrained")
        for row, curve in enumerate(curves):
            axes = figure.add_subplot(len(curves), 1, row + 1)
            if curve.training:
                axes.plot(*zip(*curve.training, strict=True), color=PLAIN, linewidth=1.4, label="training")
            if curve.heldout:
                at, values = zip(*curve.heldout, strict=True)
                axes.plot(at, values, color=SECOND, linewidth=1.6, marker="o", markersize=3, label="held out")
            axes.set_title(_name(curve.step), loc="left", fontsize=9)
            axes.set_xlabel("optimiser step")
            axes.set_ylabel("loss (nats per token)")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False)
        return _svg(figure, "loss", "Loss while training")


def _name(text: str) -> str:
    clean = _TICKS.sub(" ", text)  # XML has no place for control characters
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"


def _svg(figure: Figure, name: str, label: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return embed(stream.getvalue(), name, label)


def embed(svg: str, name: str, label: str) -> str:
    """An SVG document as an element of an HTML page: no namespaces, no metadata, ids that start with ``name``."""
    root = ElementTree.fromstring(svg)  # noqa: S314  (matplotlib wrote it just now)
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) == "metadata":
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _own(_local(key), value, name) for key, value in element.attrib.items()}
    width = root.attrib.pop("width", "")
    root.attrib.pop("height", "")
    root.attrib.update({"role": "img", "aria-label": label, "style": f"max-width:{width}"})
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    return value.replace("url(#", f"url(#{name}-")
