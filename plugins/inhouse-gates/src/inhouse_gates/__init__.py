"""The evaluator ``gates``: a model is done when it fits the machine and is still the same model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import field, frozen, validators

from inhouse import EvaluatorSpec, Input, hookimpl
from inhouse.events import Event

GATES = ("parity", "survival", "fit", "task")
"""In the order in which they are measured."""


def _known(instance: object, attribute: object, value: tuple[str, ...]) -> None:
    for each in value:
        if each not in GATES:
            raise ValueError(f"no gate {each!r}; there are {', '.join(GATES)}")


@frozen
class GatesOptions:
    """The bounds. What the machine has to offer stands in the recipe's ``[target]``."""

    survival: float = field(
        default=0.25,
        validator=validators.gt(0),
        metadata={"help": "most that quantising may change, as a share of what tuning changed (KL divergences)"},
    )
    survival_tokens: int = field(
        default=1024,
        validator=validators.gt(0),
        metadata={"help": "held-out tokens of the assistant that the divergences are measured on, about"},
    )
    task: float = field(
        default=5.0,
        validator=validators.ge(0),
        metadata={"help": "most percentage points of the tasks that the quantised model may lose against 16 bit"},
    )
    accept: tuple[str, ...] = field(
        default=(), validator=_known, metadata={"help": "gates that may fail: the run goes on, the lineage says so"}
    )


@frozen
class GateChecked(Event):
    """One gate was measured, or skipped. ``accepted``: it failed, and the run goes on nevertheless."""

    step: str
    gate: str
    state: str
    measured: str
    accepted: bool


@hookimpl
def inhouse_event_types() -> Iterable[type[Event]]:
    """The event of a gate."""
    return (GateChecked,)


@hookimpl
def inhouse_evaluators() -> Iterator[EvaluatorSpec]:
    """Declares the evaluator."""
    yield EvaluatorSpec(
        name="gates",
        summary="ends the run when the quantised model does not fit its target or is not the tuned one any more",
        factory="inhouse_gates.evaluator:GatesEvaluator",
        options=GatesOptions,
        consumes=(
            Input("model/*", take="all"),
            Input("text/chat", optional=True),
            Input("report", optional=True),
            Input("knowledge", optional=True),
        ),
        produces="report/gates",
        version=8,
        target=True,
    )
