"""Gate ``fit``: the quantised model within the recipe's ``[target]``, loaded and used as its owner will."""

from __future__ import annotations

from collections.abc import Sequence

from inhouse.errors import EngineError
from inhouse.protocols import Step
from inhouse.values import Artifact, Message
from inhouse_evaluate.load import measure_load
from inhouse_evaluate.models import weight_bytes

from .row import Row, judged

_CHANGE = "a smaller type, a shorter context, or a larger [target]"


def fit(step: Step, model: Artifact, dialogues: Sequence[Sequence[Message]]) -> Row:
    """Opens ``model`` with the target's context, fills the context, and measures memory and speed."""
    size, target = weight_bytes(model.path), step.target
    if size > target.memory:  # nothing has to be loaded to see that
        return judged("fit", False, f"the file has {_mb(size)}, the target {_mb(target.memory)}", _CHANGE, bytes=size)
    text = "\n".join(turn.content for dialogue in dialogues for turn in dialogue)
    try:
        with step.services.engine(model, context=target.context) as engine:
            load = measure_load(engine, text)
    except EngineError as error:
        return judged("fit", False, f"cannot be loaded: {error.message}", _CHANGE, bytes=size)
    return judged(
        "fit",
        load.memory <= target.memory and load.tokens_per_second >= target.speed,
        f"file {_mb(size)}, {_mb(load.memory)} in memory with {target.context} tokens of context (target"
        f" {_mb(target.memory)}), {load.tokens_per_second:.1f} tokens/s"
        + (f" (target {target.speed})" if target.speed else ""),
        _CHANGE,
        bytes=size,
        memory=load.memory,
        tokens_per_second=load.tokens_per_second,
        prefill_tokens_per_second=load.prefill_tokens_per_second,
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
