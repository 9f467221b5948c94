"""The learning rate and the order of the data, both pure functions: nothing about them is checkpointed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .ranks import rank_and_world

Decay = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, total: int, *, peak: float, warmup: float, decay: Decay) -> float:
    """The rate of ``step`` (from 0) of ``total``: linear warm-up over a share, then decay towards 0.

    The first step already learns, and the last one is not wasted on a rate of 0.
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    if decay == "constant":
        return peak
    gone = (step - rising) / max(1, total - rising)
    return peak * (1.0 - gone if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone)))


def steps_in_epoch(count: int, batch_size: int) -> int:
    """Batches that this process has in an epoch of ``count`` rows; the same number in each process."""
    _, world = rank_and_world()
    return -(-(count // world) // batch_size)


def batch(count: int, batch_size: int, place: int, *, seed: int, epoch: int) -> list[int]:
    """Batch ``place`` (from 0) of an epoch, whose random order (seed, epoch) decides; the last may be short.

    Of n processes that torch.distributed joins, process r reads row r, n + r, 2n + r … of that order. Each has
    the same number of rows: a remainder of less than n is left out, another one in each epoch.
    """
    start = place * batch_size
    rows: list[int] = _order(count, seed, epoch)[start : start + batch_size].tolist()
    return rows


def batches(count: int, batch_size: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """All batches of an epoch, in order."""
    order: list[int] = _order(count, seed, epoch).tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _order(count: int, seed: int, epoch: int) -> Tensor:
    """The rows of this process in an epoch."""
    rank, world = rank_and_world()
    generator = torch.Generator().manual_seed((seed << 20) ^ epoch)
    return torch.randperm(count, generator=generator)[rank : count - count % world : world]
