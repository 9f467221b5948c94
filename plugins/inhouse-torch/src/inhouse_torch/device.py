"""Where a training runs, and what a GPU needs for it: sums in a fixed order, and a word when its memory is full."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from inhouse.errors import ResourceError

Device = Literal["auto", "cpu", "cuda"]
_FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What a RuntimeError of CUDA says when memory is missing outside of torch's allocator."""
_COMPILED = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""How much that was compiled for one shape oneDNN and torch keep; 1,024 else, of 0.3 MB each in bf16. A step has less
than a hundred shapes, and the next one, with other lengths, has others."""


@contextmanager
def training_on(wanted: Device) -> Iterator[torch.device]:
    """Yields the GPU where torch sees one that works, unless ``wanted`` is cpu.

    Inside, the same seed gives the same bits on a GPU too. Acts on the whole process; cuBLAS reads its variable when
    it is first used (https://docs.pytorch.org/docs/stable/notes/randomness.html), and so does oneDNN. Raises
    ``ResourceError`` when a GPU is wanted in vain, and when its memory does not suffice.
    """
    for name, value in _COMPILED.items():
        os.environ.setdefault(name, value)
    device = _device(wanted)
    if device.type == "cpu":
        yield device
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # nothing here reads what it did not write
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield device
    except RuntimeError as error:  # torch's OutOfMemoryError is one
        if not any(each in str(error) for each in _FULL):
            raise
        raise _full(device) from error
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        settings.fill_uninitialized_memory = filling
        gc.collect()
        torch.cuda.empty_cache()  # the next step may use the GPU from another process


def _device(wanted: Device) -> torch.device:
    if wanted == "cpu" or not (torch.cuda.is_available() or wanted == "cuda"):
        return torch.device("cpu")
    why = _unusable()
    if why is None:
        return torch.device("cuda")
    if wanted == "auto":
        return torch.device("cpu")
    raise ResourceError(
        f'device = "cuda", but {why}',
        hint='device = "cpu", or a torch built for this GPU (https://pytorch.org/get-started/locally)',
    )


def _unusable() -> str | None:
    """Why this torch cannot compute on the GPU: none, one too old for it, or one that another process holds."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    try:
        torch.ones(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        return f"the GPU does not work with this torch ({str(error).splitlines()[0]})"
    return None


def _full(device: torch.device) -> ResourceError:
    free, total = torch.cuda.mem_get_info(device)
    used, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return ResourceError(
        f"the memory of {torch.cuda.get_device_name(device)} does not suffice: {most / 1e9:.2f} GB were in use at "
        f"most, {used / 1e9:.2f} GB now, {free / 1e9:.2f} of {total / 1e9:.2f} GB are free",
        hint='a smaller micro_batch_tokens or context, a lora with quantized_base = "nf4", or device = "cpu"',
    )
