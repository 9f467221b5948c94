"""Huge pages for a graph.

A search reads vectors here and there in one large block: with pages of 4 KiB, nearly every read has to look up its
address in memory first. hnswlib takes that block from malloc, which only the environment of a process can tell to ask
for huge pages (``glibc.malloc.hugetlb``), so what is new in the process's map is marked.

Linux: ``madvise(2)`` with MADV_HUGEPAGE, and MADV_COLLAPSE (from 6.1) for what is written already. Elsewhere, and where
the system has none, nothing happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAP = Path("/proc/self/maps")
SIZE = 2 << 20
"""Bytes of a huge page."""

MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25
Range = tuple[int, int]
"""First address, and the one behind the last."""


@contextmanager
def huge_pages() -> Iterator[None]:
    """Memory of at least 2 MiB that is taken while this is open lies in huge pages, as far as the system has some."""
    before = _anonymous()
    yield
    for taken in _anonymous():
        for start, end in _without(taken, before) if taken[1] - taken[0] >= SIZE else ():
            first, last = -(-start // SIZE) * SIZE, end // SIZE * SIZE
            if first < last:
                for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
                    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _anonymous() -> list[Range]:
    """The ranges that belong to no file and may be written, ascending; none where there is no map."""
    try:
        lines = [line.split() for line in MAP.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for place, rights, _, _, inode, *path in lines:
        if rights.startswith("rw") and inode == "0" and not path:
            start, _, end = place.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def _without(taken: Range, others: list[Range]) -> Iterator[Range]:
    """What of ``taken`` is in none of ``others``, which are ascending: new memory may have grown together with old."""
    start, end = taken
    for other_start, other_end in others:
        if other_end <= start or other_start >= end:
            continue
        if start < other_start:
            yield start, other_start
        start = other_end
    if start < end:
        yield start, end
