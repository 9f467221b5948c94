"""A batch as one joined sequence without padding: ``[shared prefix][sequence 1][sequence 2] ...``.

The longest token prefix that all sequences share (a system prompt) is computed once; every sequence goes on
from it with its own positions, so the result equals the padded computation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen


@frozen
class Sample:
    """One training sequence. ``learn[i]`` says whether ``ids[i]`` is a target; ``name`` is for errors."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    name: str = ""

    @property
    def targets(self) -> int:
        """Number of tokens that count in the loss (the first token is never predicted)."""
        return sum(self.learn[1:])


@frozen
class Segments:
    """The layout of a joined sequence: ``prefix`` shared tokens, then pieces of ``lengths`` tokens each."""

    prefix: int
    lengths: tuple[int, ...]

    @property
    def total(self) -> int:
        """Tokens in the joined sequence."""
        return self.prefix + sum(self.lengths)


@frozen(eq=False)
class Packed:
    """A joined batch, T tokens of which N rows have a target.

    ``input_ids`` and ``positions`` int64 (1, T); ``rows`` int64 (N,) the positions in T whose hidden state
    predicts ``targets`` int64 (N,); ``real_tokens`` what the same batch has without sharing.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    segments: Segments
    real_tokens: int


def pack(samples: Sequence[Sample], *, device: torch.device | str = "cpu") -> Packed:
    """Joins ``samples`` (each with at least one target). Raises ``ValueError`` on one without."""
    for sample in samples:
        if sample.targets == 0:
            raise ValueError(f"{sample.name or 'a sample'} has no token to learn")
    prefix = _shared_prefix(samples)
    ids: list[int] = list(samples[0].ids[:prefix])
    positions: list[int] = list(range(prefix))
    rows: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for sample in samples:
        stop = _last_target(sample)  # what follows the last target, and that target itself, feeds nothing
        offset = len(ids) - prefix
        ids += sample.ids[prefix:stop]
        positions += range(prefix, stop)
        lengths.append(stop - prefix)
        learnt = [i for i in range(prefix + 1, stop + 1) if sample.learn[i]]
        rows += [offset + i - 1 for i in learnt]
        targets += [sample.ids[i] for i in learnt]
    return Packed(
        input_ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        rows=torch.tensor(rows, device=device),
        targets=torch.tensor(targets, device=device),
        segments=Segments(prefix, tuple(lengths)),
        real_tokens=sum(len(sample.ids) for sample in samples),
    )


def _last_target(sample: Sample) -> int:
    return max(i for i, learn in enumerate(sample.learn) if learn)


def _first_target(sample: Sample) -> int:
    return next(i for i, learn in enumerate(sample.learn) if learn and i > 0)


def _shared_prefix(samples: Sequence[Sample]) -> int:
    """Tokens shared by all, short of the row that predicts the first target of any; 0 for one sample."""
    if len(samples) < 2:
        return 0
    limit = min(_first_target(sample) - 1 for sample in samples)
    first, last = min(s.ids for s in samples), max(s.ids for s in samples)
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    return max(shared, 0)


def split_by_tokens(samples: Sequence[Sample], limit: int) -> list[list[Sample]]:
    """Cuts a batch, in order, into micro-batches of at most ``limit`` tokens each (at least one sample)."""
    pieces: list[list[Sample]] = []
    room = 0
    for sample in samples:
        if not pieces or len(sample.ids) > room:
            pieces.append([])
            room = limit
        pieces[-1].append(sample)
        room -= len(sample.ids)
    return pieces
