"""Which part of the data this process reads where several of them train."""

from __future__ import annotations

from torch import distributed


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are, of torch.distributed where it is initialised; else (0, 1)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
