"""Where a training runs, and what a GPU needs for it: sums in a fixed order, and a word when its memory is full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from inhouse.errors import ResourceError

Device = Literal["auto", "cpu", "cuda"]


@contextmanager
def training_on(wanted: Device) -> Iterator[torch.device]:
    """Yields the GPU where torch sees one, unless ``wanted`` is cpu.

    Inside, the same seed gives the same bits on a GPU too. Acts on the whole process; cuBLAS reads its variable when
    it is first used (https://docs.pytorch.org/docs/stable/notes/randomness.html). Raises ``ResourceError`` when a GPU
    is wanted in vain, and when its memory does not suffice.
    """
    device = _device(wanted)
    if device.type == "cpu":
        yield device
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    was, filling = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # nothing here reads what it did not write
    try:
        yield device
    except torch.OutOfMemoryError as error:
        raise _full(device) from error
    finally:
        torch.use_deterministic_algorithms(was)
        settings.fill_uninitialized_memory = filling


def _device(wanted: Device) -> torch.device:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ResourceError(
            'device = "cuda", but torch sees no GPU',
            hint='device = "cpu", or a torch built for this GPU (https://pytorch.org/get-started/locally)',
        )
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def _full(device: torch.device) -> ResourceError:
    free, total = torch.cuda.mem_get_info(device)
    used, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return ResourceError(
        f"the memory of {torch.cuda.get_device_name(device)} does not suffice: {most / 1e9:.2f} GB were in use at "
        f"most, {used / 1e9:.2f} GB now, {free / 1e9:.2f} of {total / 1e9:.2f} GB are free",
        hint='a smaller micro_batch_tokens or context, a lora with quantized_base = "nf4", or device = "cpu"',
    )
