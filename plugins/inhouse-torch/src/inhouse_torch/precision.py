"""Which number format this machine multiplies fastest."""

from __future__ import annotations

import time
from typing import Literal

import torch

ComputeDtype = Literal["auto", "float32", "bfloat16"]


def gemm_rate(dtype: torch.dtype, *, device: str = "cpu", size: int = 512, repeats: int = 5) -> float:
    """Measured rate of a (size, 2*size, size) product, in floating-point operations a second."""
    a = torch.ones(size, 2 * size, dtype=dtype, device=device)
    b = torch.ones(size, 2 * size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 4.0 * size**3 / best


def compute_dtype(wanted: ComputeDtype, *, device: str = "cpu") -> torch.dtype:
    """The format of the frozen weights and activations: as told, or bf16 where it is clearly faster.

    bf16 has to win by half, because the elementwise work between the products gains nothing.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    faster = gemm_rate(torch.bfloat16, device=device) > 1.5 * gemm_rate(torch.float32, device=device)
    return torch.bfloat16 if faster else torch.float32
