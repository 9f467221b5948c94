"""glibc's allocator, told to keep what it has: training frees and takes the same large blocks every step."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define

from inhouse.memory import resident_bytes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP = {_M_MMAP_THRESHOLD: 2**31 - 1, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}  # mallopt takes a C int
_USUAL = {_M_MMAP_THRESHOLD: 128 << 10, _M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 128 << 10}  # mallopt(3)


GROWTH = 1.1
"""Resident memory over that after the first step, from which on what is free goes back."""

REST = 8
"""Steps between two times: each makes the next step fault its pages in, and all may need more than the first one."""


@define
class Kept:
    """Freed memory that stays with the process; ``taken``: whether the allocator took that, only glibc's does."""

    taken: bool
    _level: int = 0
    _steps: int = 0

    def hold(self) -> None:
        """To be called after each of many steps that need about as much as the first.

        Steps of other sizes leave gaps that the next ones do not fit in, so a heap that keeps them all grows. Where it
        has grown by a tenth, all that is free goes back to the system, for some page faults in the next step.
        """
        if not self.taken:
            return
        now = resident_bytes()
        self._level = self._level or now
        self._steps += 1
        if now > GROWTH * self._level and self._steps >= REST:
            self._steps = 0
            _glibc().malloc_trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[Kept]:
    """Inside, large blocks come from the heap and stay there (fewer page faults); after it all is given back.

    The same as MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the environment, but
    for a while only. Acts on the whole process.
    """
    libc = _glibc()
    if libc is None:
        yield Kept(taken=False)
        return
    taken = [libc.mallopt(key, value) == 1 for key, value in _KEEP.items()]
    try:
        yield Kept(all(taken))
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
