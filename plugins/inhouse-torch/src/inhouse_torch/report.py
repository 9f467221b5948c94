"""What a trainer tells the user through its step, the same for every trainer."""

from __future__ import annotations

import time
from collections.abc import Callable

from inhouse.protocols import Step

from .allocator import freed_memory_kept
from .loop import Moment, Progress


def telling(
    step: Step, fit: Callable[[Callable[[Moment], None]], Progress], also: Callable[[Moment], None] | None = None
) -> Progress:
    """Runs ``fit`` with a listener that publishes progress, loss, learning rate and held-out loss, and ``also``.

    Notes with the artifact: ``steps``, ``final_loss``, ``best_heldout_loss``, ``best_step``,
    ``heldout_losses``, ``stopped_early`` and ``train_seconds`` (of this process; less after a resume).
    """
    start = time.monotonic()

    def tell(moment: Moment) -> None:
        step.metric("loss", moment.loss, at=moment.step)
        step.metric("learning_rate", moment.learning_rate, at=moment.step)
        if moment.heldout is not None:
            step.metric("heldout_loss", moment.heldout, at=moment.step)
        note = f"loss {moment.loss:.3f}" + (f", held out {moment.heldout:.3f}" if moment.heldout is not None else "")
        step.progress(moment.step, moment.total, unit="step", note=note)
        if also is not None:
            also(moment)

    with freed_memory_kept():
        progress = fit(tell)
    if progress.stopped_early:
        step.notice(f"stopped early: the held-out loss was lowest at step {progress.best_step}")
    step.note(
        steps=progress.step,
        final_loss=progress.losses[-1] if progress.losses else None,
        losses=[round(loss, 5) for loss in progress.losses],
        best_heldout_loss=progress.best_loss,
        best_step=progress.best_step,
        heldout_losses=progress.heldout,
        stopped_early=progress.stopped_early,
        train_seconds=round(time.monotonic() - start, 2),
    )
    return progress
