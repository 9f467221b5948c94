"""Memory that is free goes back to the system, so that the next model finds it."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Lets glibc's allocator return the pages it holds and nothing uses; does nothing with another allocator.

    Caches of many sizes come and go with every batch and leave holes: a gigabyte after three turns of 64
    dialogues with a 135M model.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
