"""The evaluator ``tasks``: every model of a run on the same held-out tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen, validators

from inhouse import EvaluatorSpec, Input, hookimpl

ROLES = ("base", "tuned", "quantized", "other")
"""The first model of a run, the last one that was trained, the one of the step `quantize`, further quantised ones."""


@frozen
class TasksOptions:
    """What is measured."""

    tasks: Path = field(metadata={"help": "JSON lines: question, expected calls, what the answer must contain"})
    few_shot: Path | None = field(
        default=None, metadata={"help": "JSON lines of dialogues that an untuned model is shown first"}
    )
    few_shot_tuned: bool = field(default=False, metadata={"help": "show them to tuned models too"})
    roles: tuple[str, ...] = field(
        default=ROLES,
        validator=validators.deep_iterable(validators.in_(ROLES)),
        metadata={"help": f"which models are measured: {', '.join(ROLES)}"},
    )
    batch: int | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "dialogues decoded at the same time; without it, as many as the engine decodes together"},
    )
    heldout_limit: int = field(
        default=40,
        validator=validators.ge(0),
        metadata={"help": "held-out rows whose loss is measured; 0: none"},
    )
    confidence: float = field(
        default=0.95,
        validator=[validators.gt(0), validators.lt(1)],
        metadata={"help": "of the Wilson intervals"},
    )
    minimum: float | None = field(
        default=None,
        validator=validators.optional([validators.ge(0), validators.le(1)]),
        metadata={"help": "share of tasks that the quantised model has to solve; noted as the gate"},
    )


@hookimpl
def inhouse_evaluators() -> Iterator[EvaluatorSpec]:
    """Declares the evaluator."""
    yield EvaluatorSpec(
        name="tasks",
        summary="runs the agent with every model on held-out tasks; loss, size, memory and speed beside it",
        factory="inhouse_evaluate.evaluator:TasksEvaluator",
        options=TasksOptions,
        consumes=(
            Input("model/*", take="all"),
            Input("text/chat", optional=True),
            Input("knowledge", optional=True),
        ),
        produces="report",
        target=True,
    )
