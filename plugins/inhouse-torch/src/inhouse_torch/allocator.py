"""glibc's allocator, told to keep what it has: training frees and takes the same large blocks every step."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP = {_M_MMAP_THRESHOLD: 2**31 - 1, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}  # mallopt takes a C int
_USUAL = {_M_MMAP_THRESHOLD: 128 << 10, _M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 128 << 10}  # mallopt(3)


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Inside, large blocks come from the heap and stay there (fewer page faults); after it all is given back.

    The same as MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the environment, but
    for a while only. Acts on the whole process. Yields whether the allocator took it: only glibc's does.
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    taken = [libc.mallopt(key, value) == 1 for key, value in _KEEP.items()]
    try:
        yield all(taken)
    finally:
        for key, value in _USUAL.items():
            libc.mallopt(key, value)
        libc.malloc_trim(0)


def give_back() -> None:
    """Returns to the system what nothing refers to any more; other allocators than glibc's only drop it."""
    gc.collect()  # modules and their hooks refer to each other
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None  # musl has neither
