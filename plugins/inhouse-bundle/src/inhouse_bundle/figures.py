"""An evaluator's report as typed figures. Evaluators differ: what is missing or no number is ``None``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from inhouse.values import Json, StepRecord

ROLES = {"base": "base, prompted", "tuned": "tuned", "quantized": "quantised"}


@frozen
class Figures:
    """One model. ``solved`` of ``total`` tasks; ``low``/``high`` bound the share; ``loss`` in nats per token;
    ``bytes`` of weights; ``memory`` resident bytes; ``kinds`` maps a kind of task to (solved, total)."""

    label: str
    step: str
    deployed: bool = False
    solved: int | None = None
    total: int | None = None
    low: float | None = None
    high: float | None = None
    loss: float | None = None
    bytes: float | None = None
    memory: float | None = None
    tokens_per_second: float | None = None
    bits_per_weight: float | None = None
    type: str | None = None
    runtime: str | None = None
    settings: str | None = None
    examples: int = 0
    kinds: Mapping[str, tuple[int, int]] = field(factory=dict)
    failed: Sequence[Mapping[str, Any]] = ()

    @property
    def share(self) -> float | None:
        """Solved tasks, 0 to 1."""
        return self.solved / self.total if self.total and self.solved is not None else None


@frozen
class Curve:
    """One trainer's losses: (optimiser step, nats per token)."""

    step: str
    training: Sequence[tuple[float, float]]
    heldout: Sequence[tuple[float, float]]


def read_figures(report: Mapping[str, Json], deployed_step: str) -> list[Figures]:
    """Base, tuned, quantised, others, as far as ``report`` has them."""
    tasks, verdicts = _mapping(report.get("tasks")), _mapping(report.get("verdicts"))
    found = [
        _figures(label, tasks[role], verdicts.get(role), deployed_step)
        for role, label in ROLES.items()
        if isinstance(tasks.get(role), Mapping)
    ]
    failed = _mapping(verdicts.get("others"))
    for name, entry in sorted(_mapping(tasks.get("others")).items()):
        if isinstance(entry, Mapping):
            found.append(_figures(name, entry, failed.get(name), deployed_step))
    return found


def read_curves(steps: Sequence[StepRecord]) -> list[Curve]:
    """Loss curves from what trainers noted: ``losses`` (one a step), ``heldout_losses`` ([step, loss] pairs)."""
    curves = []
    for step in steps:
        losses = enumerate(_list(step.meta.get("losses")), 1)
        pairs = [each for each in _list(step.meta.get("heldout_losses")) if isinstance(each, (list, tuple))]
        heldout = [each for each in pairs if len(each) == 2]
        curves.append(Curve(step.name, _series(losses), _series(heldout)))
    return [curve for curve in curves if len(curve.training) + len(curve.heldout) > 1]


def _figures(label: str, entry: Mapping[str, Json], verdicts: Json, deployed_step: str) -> Figures:
    step = str(entry.get("step") or "")
    kinds = {
        str(kind): (int(each.get("solved") or 0), int(each.get("total") or 0))
        for kind, each in sorted(_mapping(entry.get("kinds")).items())
        if isinstance(each, Mapping)
    }
    rows = verdicts if isinstance(verdicts, list) else []
    return Figures(
        label=label,
        step=step,
        deployed=step == deployed_step,
        solved=_whole(entry.get("solved")),
        total=_whole(entry.get("total")),
        **{
            name: number(entry.get(name))
            for name in ("low", "high", "loss", "bytes", "memory", "tokens_per_second", "bits_per_weight")
        },
        type=_text(entry.get("type")),
        runtime=_text(entry.get("runtime")),
        settings=_text(entry.get("settings")),
        examples=_whole(entry.get("examples")) or 0,
        kinds=kinds,
        failed=[_verdict(each) for each in rows if isinstance(each, Mapping) and not each.get("solved")],
    )


def _verdict(given: Mapping[str, Json]) -> dict[str, Any]:
    why = given.get("why_not")
    calls = given.get("calls")
    return {
        "id": str(given.get("id", "")),
        "kind": str(given.get("kind", "")),
        "question": str(given.get("question", "")),
        "answer": str(given.get("answer", "")),
        "outcome": str(given.get("outcome", "")),
        "why_not": [str(each) for each in why] if isinstance(why, list) else [str(why or "")],
        "calls": [each for each in calls if isinstance(each, Mapping)] if isinstance(calls, list) else [],
    }


def _series(pairs: Iterable[Sequence[Json]]) -> list[tuple[float, float]]:
    found = [(number(at), number(value)) for at, value in pairs]
    return sorted((at, value) for at, value in found if at is not None and value is not None)


def _list(value: Json) -> list[Json]:
    return list(value) if isinstance(value, (list, tuple)) else []


def number(value: Json) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _whole(value: Json) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _text(value: Json) -> str | None:
    return str(value) if value else None


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}
