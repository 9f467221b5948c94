"""The report as a page, and the model card: both from the same content."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from attrs import field, frozen
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from inhouse.values import Artifact, Json, StepRecord

from . import words
from .figures import ROLES, Curve, Figures, number, read_curves, read_figures
from .plots import loss_chart, seconds_chart, solved_chart


@frozen
class Content:
    """What page and card say. ``report`` is the evaluator's, ``{}`` if there is none; ``plugins`` are the
    distributions that answering needs, with versions; ``ollama`` says that a Modelfile is there."""

    name: str
    model: Artifact
    model_bytes: int
    report: Mapping[str, Json]
    steps: Sequence[StepRecord]
    lineage: Mapping[str, Json]
    plugins: Mapping[str, str]
    example: str
    context: int
    ollama: bool
    gate: str | None
    models: Sequence[Figures] = field(init=False)
    curves: Sequence[Curve] = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "models", read_figures(self.report, self.model.step))
        object.__setattr__(self, "curves", read_curves(self.steps))

    @property
    def deployed(self) -> Figures | None:
        """The figures of the bundle's own model."""
        return next((model for model in self.models if model.deployed), None)

    @property
    def confidence(self) -> float | None:
        """Of the intervals, 0 to 1."""
        return number(self.report.get("confidence"))

    @property
    def minimum(self) -> float | None:
        """The share of tasks that was asked for, 0 to 1."""
        return number(self.report.get("minimum"))

    @property
    def peak_memory(self) -> int:
        """Bytes of the hungriest step."""
        return max((step.peak_memory_bytes for step in self.steps), default=0)

    @property
    def total_seconds(self) -> float:
        """Of all steps, as each took when it was made."""
        return sum(step.made_seconds for step in self.steps)

    @property
    def kinds(self) -> list[str]:
        """Kinds of tasks over all models."""
        return sorted({kind for model in self.models for kind in model.kinds})

    @property
    def gates(self) -> list[dict[str, str]]:
        """What was judged: name, state and what was measured; of several steps, in their order."""
        judged = [row for found in self.lineage["gates"].values() for row in found.items()]
        return [{"name": name, "state": words.gate(each), "measured": each["measured"]} for name, each in judged]

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Paired comparisons: two models on the same tasks."""
        given = self.report.get("paired")
        found = []
        for name, each in given.items() if isinstance(given, Mapping) else ():
            if isinstance(each, Mapping):
                first, _, second = str(name).partition("_")
                names = {"first": ROLES.get(first, first), "second": ROLES.get(second, second)}
                found.append({**each, **names, "p": number(each.get("p"))})
        return found


def html(content: Content) -> str:
    """``report.html``: one file, no script, nothing loaded; every text escaped."""
    plots = {
        "solved": solved_chart(content.models, content.confidence),
        "seconds": seconds_chart(content.steps),
        "loss": loss_chart(content.curves),
    }
    safe = {name: Markup(plot) for name, plot in plots.items() if plot}  # noqa: S704  (texts escaped by the writer)
    return _render("report.html.jinja", content, escape=True, plots=safe)


def card(content: Content) -> str:
    """``README.md``: what the model can do, and what to type."""
    return _render("README.md.jinja", content, escape=False, plots={})


def _render(template: str, content: Content, *, escape: bool, plots: Mapping[str, Markup]) -> str:
    environment = Environment(
        autoescape=escape,  # noqa: S701  (Markdown has a filter of its own)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        size=words.size,
        share=words.share,
        decimal=words.decimal,
        chance=words.chance,
        duration=words.duration,
        md=words.markdown,
        compact=_compact,
        shell=shlex.quote,
    )
    text = resources.files(__package__).joinpath("templates", template).read_text(encoding="utf-8")
    return environment.from_string(text).render(content=content, plots=plots)


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
