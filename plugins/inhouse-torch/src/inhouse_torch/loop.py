"""The training loop: token-weighed micro-batches, held-out loss, early stop, exact resume.

Everything random in a step is a function of (seed, step) and the data order one of (seed, epoch), so a run
that is killed and resumed gives the losses of one that was not, to the last digit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from attrs import define, field, fields, frozen
from torch import Tensor, nn

from inhouse.errors import StepError

from . import checkpoint
from .optimizers import OptimizerName, Optimizers
from .schedule import Decay, batch, batches, learning_rate, steps_in_epoch


@frozen(kw_only=True)
class Settings:
    """How to train. ``warmup`` is a share of all steps; ``evaluations`` are per epoch, the last at its end (0: none).

    ``patience`` is how many evaluations without a lower held-out loss end the training (0: never).
    """

    learning_rate: float
    batch_size: int
    epochs: int
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.1
    decay: Decay = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    evaluations: int = 1
    patience: int = 0
    checkpoint_seconds: float = 60.0

    @classmethod
    def of(cls, options: Any, **more: Any) -> "Settings":
        """What a trainer's options say under the same names; ``more`` is laid over it."""
        named = {each.name: getattr(options, each.name) for each in fields(cls) if hasattr(options, each.name)}
        return cls(**{**named, **more})


class Task(Protocol):
    """What is trained on what. ``count`` rows of data; parameters by name, fp32.

    ``matrices`` are names of the parameters that Muon may take: matrices inside the layers. ``buffers`` are what else
    the next losses depend on; the loop keeps them in checkpoints.
    """

    count: int
    parameters: Mapping[str, nn.Parameter]
    matrices: Collection[str]
    buffers: Mapping[str, Tensor]

    def begin(self, *key: int) -> None:
        """Seeds whatever is random in the next forward passes."""
        ...

    def targets(self, rows: Sequence[int]) -> int:
        """Tokens that count in the loss of these rows."""
        ...

    def tokens(self, rows: Sequence[int]) -> int:
        """How many tokens these rows have: the more, the more memory they take."""
        ...

    def losses(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """The summed token loss of each micro-batch of these rows, to be back-propagated one by one."""
        ...

    def heldout(self) -> float | None:
        """Mean token loss on held-out data (no dropout, no gradient), or None without such data."""
        ...

    def name(self, row: int) -> str:
        """How to call a row in an error."""
        ...


@frozen
class Moment:
    """What one step did. ``loss`` is its mean token loss; ``heldout`` is set where it was measured."""

    step: int
    total: int
    loss: float
    learning_rate: float
    tokens: int
    heldout: float | None = None


@define
class Progress:
    """What is known so far; kept in the checkpoint as it is. ``best_loss`` is a held-out loss."""

    losses: list[float] = field(factory=list)
    heldout: list[tuple[int, float]] = field(factory=list)
    best_step: int = 0
    best_loss: float | None = None
    unimproved: int = 0
    stopped_early: bool = False

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


def fit(
    task: Task, settings: Settings, *, seed: int, folder: Path, tell: Callable[[Moment], None], keep: bool = False
) -> Progress:
    """Trains ``task.parameters`` in place and leaves the best of them there (lowest held-out loss, else last).

    Goes on from a checkpoint in ``folder`` and writes new ones there. ``tell`` may raise to stop; then a
    checkpoint is written first; with ``keep`` one is written at the end too. Of several processes of
    torch.distributed each needs a ``folder`` of its own and trains on its part of the rows; nothing is exchanged.
    Raises ``StepError`` on a loss that is no number (the last good checkpoint stays) and on fewer rows than
    processes, and ``ArtifactError`` on a checkpoint that does not fit.
    """
    optimizer = Optimizers(
        task.parameters,
        name=settings.optimizer,
        matrices=task.matrices,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        folder=folder,
    )
    progress = _resume(task, optimizer, folder)
    total = _steps(task, settings)
    saved_at, first = time.monotonic(), progress.step
    while progress.step < total and not progress.stopped_early:
        moment = _step(task, settings, optimizer, progress, seed=seed, total=total)
        if moment.step == first + 1:
            _rehearse(task, settings, optimizer, seed=seed, done=first, total=total)
        _remember(task, settings, progress, moment, folder)
        try:
            tell(moment)
        except BaseException:
            _save(task, optimizer, progress, folder)
            raise
        if time.monotonic() - saved_at >= settings.checkpoint_seconds:
            _save(task, optimizer, progress, folder)
            saved_at = time.monotonic()
    if keep and progress.step != first:
        _save(task, optimizer, progress, folder)
    if progress.best_loss is not None and progress.best_step != progress.step:
        best = checkpoint.load(folder / "best")
        checkpoint.restore(task.parameters, best[0] if best else {})
    return progress


def _steps(task: Task, settings: Settings) -> int:
    """Of the whole training. Raises ``StepError`` when there is no row for each process."""
    steps = steps_in_epoch(task.count, settings.batch_size)
    if task.count and not steps:
        raise StepError(f"{task.count} rows of data are fewer than the processes that train")
    return steps * settings.epochs


def _rows(task: Task, settings: Settings, step: int, *, seed: int, total: int) -> list[int]:
    """The batch of a step, counted from 0."""
    epoch, place = divmod(step, total // settings.epochs)
    return batch(task.count, settings.batch_size, place, seed=seed, epoch=epoch)


def _step(
    task: Task, settings: Settings, optimizer: Optimizers, progress: Progress, *, seed: int, total: int
) -> Moment:
    """One optimizer step and, where it is due, the held-out loss after it."""
    step = progress.step
    rows = _rows(task, settings, step, seed=seed, total=total)
    rate = learning_rate(step, total, peak=settings.learning_rate, warmup=settings.warmup, decay=settings.decay)
    torch.manual_seed((seed << 32) ^ step)
    task.begin(seed, step)
    tokens, summed = task.targets(rows), 0.0
    for loss in task.losses(rows):
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        summed += loss.item()
    norm = optimizer.clip(settings.clip)
    if not (summed - summed == 0.0 and bool(torch.isfinite(norm))):
        optimizer.zero_grad()
        raise _not_a_number(task, rows, step)
    optimizer.step(rate)
    progress.losses.append(summed / tokens)
    in_epoch = total // settings.epochs
    due = _evaluation_due(step % in_epoch + 1, in_epoch, settings.evaluations)
    return Moment(step + 1, total, summed / tokens, rate, tokens, task.heldout() if due else None)


def _rehearse(task: Task, settings: Settings, optimizer: Optimizers, *, seed: int, done: int, total: int) -> None:
    """Computes the largest batch of all and forgets it: memory that is too little shows now, not in an hour.

    To be called after a first step (number ``done``), when the optimizer holds what it keeps. Left out where
    that step's batch was as large. fairseq's dummy batch is for the same.
    """
    every = (
        rows
        for epoch in range(settings.epochs)
        for rows in batches(task.count, settings.batch_size, seed=seed, epoch=epoch)
    )
    largest = max(every, key=task.tokens)
    if task.tokens(largest) > task.tokens(_rows(task, settings, done, seed=seed, total=total)):
        for loss in task.losses(largest):
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.zero_grad()


def _evaluation_due(done: int, steps: int, evaluations: int) -> bool:
    """Whether one of ``evaluations`` evenly spaced points of an epoch lies at step ``done`` of ``steps``."""
    return done * evaluations // steps != (done - 1) * evaluations // steps


def _not_a_number(task: Task, rows: Sequence[int], step: int) -> StepError:
    bad = []
    with torch.no_grad():
        for row in rows:
            if not all(bool(torch.isfinite(loss)) for loss in task.losses([row])):
                bad.append(task.name(row))
    where = ", ".join(bad) if bad else "no row alone; the batch was " + ", ".join(map(task.name, rows))
    return StepError(
        f"the loss is not a number at step {step + 1} (row: {where}); the last good checkpoint is kept",
        hint="lower learning_rate, or look at the row named",
    )


def _remember(task: Task, settings: Settings, progress: Progress, moment: Moment, folder: Path) -> None:
    """Keeps the parameters when their held-out loss is the lowest so far, and decides whether to stop."""
    if moment.heldout is None:
        return
    progress.heldout.append((moment.step, moment.heldout))
    if progress.best_loss is None or moment.heldout < progress.best_loss:
        progress.best_loss, progress.best_step, progress.unimproved = moment.heldout, moment.step, 0
        if moment.step < moment.total:
            checkpoint.save(folder / "best", moment.step, task.parameters, {})
    else:
        progress.unimproved += 1
        progress.stopped_early = 0 < settings.patience <= progress.unimproved


def _save(task: Task, optimizer: Optimizers, progress: Progress, folder: Path) -> None:
    tensors: dict[str, Tensor] = {f"parameter.{name}": each for name, each in task.parameters.items()}
    tensors |= {f"buffer.{name}": buffer for name, buffer in task.buffers.items()}
    facts = {key: getattr(progress, key) for key in Progress.__annotations__}
    checkpoint.save(folder, progress.step, {**tensors, **optimizer.state()}, facts)


def _resume(task: Task, optimizer: Optimizers, folder: Path) -> Progress:
    found = checkpoint.load(folder)
    if found is None:
        return Progress()
    tensors, facts = found
    checkpoint.restore(task.parameters, tensors, "parameter.")
    checkpoint.restore(task.buffers, tensors, "buffer.")
    optimizer.restore(tensors, facts.pop("step"))
    facts["heldout"] = [(int(at), float(loss)) for at, loss in facts["heldout"]]
    return Progress(**facts)
