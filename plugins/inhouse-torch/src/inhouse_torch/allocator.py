"""glibc's allocator, told to keep what it has: training frees and takes the same large blocks every step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Large blocks come from the heap and stay there (fewer page faults); True where glibc took it.

    The same as MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the environment, but
    at run time. Acts on the whole process; call it in the process that trains. mallopt takes a C int, so
    the limits are just under 2 GiB.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another libc (musl has no mallopt)
        return False
    most = 2**31 - 1
    settings = ((_M_MMAP_THRESHOLD, most), (_M_TRIM_THRESHOLD, most), (_M_TOP_PAD, 64 << 20))
    taken = [mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in settings]
    return all(taken)
