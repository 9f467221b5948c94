"""The learning rate and the order of the data, both pure functions: nothing about them is checkpointed."""

from __future__ import annotations

import math
from typing import Literal

import torch

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


def batch(count: int, batch_size: int, place: int, *, seed: int, epoch: int) -> list[int]:
    """Batch ``place`` (from 0) of an epoch, whose random order (seed, epoch) decides; the last may be short."""
    generator = torch.Generator().manual_seed((seed << 20) ^ epoch)
    start = place * batch_size
    order: list[int] = torch.randperm(count, generator=generator)[start : start + batch_size].tolist()
    return order
