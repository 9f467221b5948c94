"""Which number format this machine multiplies fastest; a training keeps what was measured when it began."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

import torch

from inhouse.artifacts import write_text
from inhouse.errors import ArtifactError

ComputeDtype = Literal["auto", "float32", "bfloat16"]
MEASURED = "measured.json"
"""In a checkpoint folder: {"dtype": what `auto` was when the training began, "device": where that was}."""
_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def gemm_rate(dtype: torch.dtype, *, device: str = "cpu", size: int | None = None, repeats: int = 5) -> float:
    """Measured rate of a (size, 2*size, size) product, in floating-point operations a second."""
    size = size or (512 if device == "cpu" else 4096)  # less is over before a GPU is busy
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


def autocast_dtype(like: torch.Tensor) -> torch.dtype:
    """The format that products of ``like`` are computed in: autocast's where it is on, else its own."""
    device = like.device.type
    casting = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if casting else like.dtype


def compute_dtype(wanted: ComputeDtype, *, device: str = "cpu", folder: Path | None = None) -> torch.dtype:
    """The format of the frozen weights and activations: as told, or bf16 where it is clearly faster.

    bf16 has to win by half, because the elementwise work between the products gains nothing. What ``auto``
    measured is kept in ``folder`` (a trainer's checkpoint folder) and read there by every later call on the same
    device: two measurements may differ, and a training that is resumed must not. Raises ``ArtifactError`` when that
    file cannot be read.
    """
    if wanted != "auto":
        return _NAMES[wanted]
    path = folder / MEASURED if folder is not None else None
    if path is not None and path.exists():
        known, there = _read(path)
        if there == device:
            return known
    dtype = _measure(device)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"dtype": str(dtype).removeprefix("torch."), "device": device}) + "\n")
    return dtype


def _read(path: Path) -> tuple[torch.dtype, str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _NAMES[data["dtype"]], str(data.get("device", "cpu"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            "does not say in which number format the training began",
            where=str(path),
            hint=f"remove {path.parent} and train anew",
        ) from error


def _measure(device: str) -> torch.dtype:
    faster = gemm_rate(torch.bfloat16, device=device) > 1.5 * gemm_rate(torch.float32, device=device)
    return torch.bfloat16 if faster else torch.float32
