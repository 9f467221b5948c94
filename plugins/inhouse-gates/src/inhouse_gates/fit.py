"""Gate ``fit``: the quantised model within the recipe's ``[target]``, loaded and used as its owner will."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inhouse.errors import EngineError
from inhouse.protocols import Step
from inhouse.values import Artifact, Message
from inhouse_evaluate.apart import load_apart
from inhouse_evaluate.models import weight_bytes

from . import GATES
from .row import Row, judged

_CHANGE = "a smaller type, a shorter context, or a larger [target]"


def fit(step: Step, model: Artifact, knowledge: Artifact | None, dialogues: Sequence[Sequence[Message]]) -> Row:
    """Opens ``model`` with the target's context in a process of its own, fills the context, and measures memory and
    speed there.

    On the disk of the machine that answers lie the model's files and the knowledge base, as a bundle holds them;
    answering writes nothing more.
    """
    size, target = weight_bytes(model.path), step.target
    disk = _bytes(model.path) + (_bytes(knowledge.path) if knowledge else 0)
    if size > target.memory:  # nothing has to be loaded to see that
        said = f"the file has {_mb(size)}, the target {_mb(target.memory)} of memory"
        return judged("fit", False, said, _CHANGE, bytes=size, disk=disk)
    if target.disk and disk > target.disk:
        said = f"model and knowledge base take {_mb(disk)} of disk, the target has {_mb(target.disk)}"
        return judged("fit", False, said, _CHANGE, bytes=size, disk=disk)
    text = "\n".join(turn.content for dialogue in dialogues for turn in dialogue)
    try:
        load, settings = load_apart(step.services, model, target, text=text, tick=lambda: _tell(step))
    except EngineError as error:
        return judged("fit", False, f"cannot be loaded: {error.message}", _CHANGE, bytes=size, disk=disk)
    if settings:
        step.notice(settings, level="warning")
    return judged(
        "fit",
        load.memory <= target.memory and load.tokens_per_second >= target.speed,
        f"file {_mb(size)}, {_mb(load.memory)} in memory with {target.context} tokens of context (target"
        f" {_mb(target.memory)}), {_mb(disk)} on disk"
        + (f" (target {_mb(target.disk)})" if target.disk else "")
        + f", {load.tokens_per_second:.1f} tokens/s"
        + (f" (target {target.speed})" if target.speed else "")
        + (f"; {settings}" if settings else ""),
        _CHANGE,
        bytes=size,
        disk=disk,
        memory=load.memory,
        tokens_per_second=load.tokens_per_second,
        prefill_tokens_per_second=load.prefill_tokens_per_second,
        settings=settings,
    )


def _tell(step: Step) -> None:
    """That it goes on; raises where the user stopped it."""
    step.progress(GATES.index("fit"), len(GATES), unit="gate", note="loading the model and filling its context")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
