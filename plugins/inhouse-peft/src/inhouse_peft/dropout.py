"""Dropout as lists of dropped positions, a pure function of (seed, step, draw): nothing to checkpoint."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class Dropout:
    """Draws which elements are dropped. The n-th draw after :meth:`begin` is always the same one.

    The positions are uniform with replacement and their number is Poisson(-n log(1 - p)): so every element
    is dropped independently with probability p (a Poisson process, thinned over the elements), at the cost
    of p n draws instead of n. Raises ``ValueError`` for p outside [0, 1).
    """

    def __init__(self, probability: float) -> None:
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {probability}")
        self._rate = -math.log1p(-probability)
        self.scale = 1.0 / (1.0 - probability)
        """What kept values are multiplied with."""
        self.begin(0)

    def begin(self, *key: int) -> None:
        """Seeds from ``key``, for example (seed, step, micro-batch)."""
        self._random = np.random.Generator(np.random.SFC64(key))
        self._of_gpu: torch.Generator | None = None

    def draw(self, count: int, device: torch.device) -> Tensor | None:
        """Positions in 0 to ``count``, int64, repeats possible; None when nothing is dropped."""
        if not self._rate:
            return None
        hits = self._random.poisson(self._rate * count)
        if device.type != "cpu":
            return torch.randint(count, (hits,), generator=self._generator(device), device=device)
        small = np.int32 if count < 2**31 else np.int64
        return torch.from_numpy(self._random.integers(0, count, size=hits, dtype=small)).to(device, torch.int64)

    def _generator(self, device: torch.device) -> torch.Generator:
        """Draws where the positions are needed; one for all draws after :meth:`begin`."""
        if self._of_gpu is None or self._of_gpu.device != device:
            self._of_gpu = torch.Generator(device).manual_seed(int(self._random.integers(2**63)))
        return self._of_gpu
