"""What a trainer tells the user through its step, the same for every trainer."""

from __future__ import annotations

import time
from collections.abc import Callable

from inhouse.protocols import Step

from .allocator import freed_memory_kept
from .loop import Moment, Progress


def telling(
    step: Step,
    fit: Callable[[Callable[[Moment], None]], Progress],
    also: Callable[[Moment], None] | None = None,
    *,
    after: int = 0,
    more: int = 0,
    prefix: str = "",
) -> Progress:
    """Runs ``fit`` with a listener that publishes progress, loss, learning rate and held-out loss, and ``also``.

    ``after`` is the number of steps of a training that this one goes on from, ``more`` of one that follows. Notes
    with the artifact, each with ``prefix`` before it: ``steps``, ``final_loss``, ``best_heldout_loss``,
    ``best_step``, ``heldout_losses``, ``stopped_early`` and ``train_seconds`` (of this process; less after a resume).
    """
    start = time.monotonic()

    def tell(moment: Moment) -> None:
        at = after + moment.step
        step.metric("loss", moment.loss, at=at)
        step.metric("learning_rate", moment.learning_rate, at=at)
        if moment.heldout is not None:
            step.metric("heldout_loss", moment.heldout, at=at)
        note = f"loss {moment.loss:.3f}" + (f", held out {moment.heldout:.3f}" if moment.heldout is not None else "")
        step.progress(at, after + moment.total + more, unit="step", note=note)
        if also is not None:
            also(moment)
        kept.hold()

    with freed_memory_kept() as kept:
        progress = fit(tell)
    if progress.stopped_early:
        step.notice(f"stopped early: the held-out loss was lowest at step {progress.best_step}")
    facts = {
        "steps": progress.step,
        "final_loss": progress.losses[-1] if progress.losses else None,
        "losses": [round(loss, 5) for loss in progress.losses],
        "best_heldout_loss": progress.best_loss,
        "best_step": progress.best_step,
        "heldout_losses": progress.heldout,
        "stopped_early": progress.stopped_early,
        "train_seconds": round(time.monotonic() - start, 2),
    }
    step.note(**{prefix + name: fact for name, fact in facts.items()})
    return progress
