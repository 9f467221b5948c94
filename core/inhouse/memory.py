"""Resident memory of this process and its children, sampled (Linux; elsewhere the process's own peak)."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_bytes(pid: int | None = None) -> int:
    """Resident bytes of ``pid`` (this process) and all its descendants; a page shared between them counts once."""
    if not Path("/proc/self/statm").exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    found, waiting = [], [pid or os.getpid()]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError, ValueError):  # it ended while we looked
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return sum(map(_resident if len(found) == 1 else _proportional, found))


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """PSS: a page that a forked child shares with its parent counts once; slower to read than RSS."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.split("\nPss:")[1].split()[0]) * 1024
    return _resident(pid)


class PeakMemory:
    """Samples :func:`resident_bytes` in a thread while the block runs; ``bytes`` is the highest seen."""

    def __init__(self, interval: float = 0.1) -> None:
        self.bytes = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self.bytes = resident_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        wait = self._interval
        while not self._stop.wait(wait):
            started = time.perf_counter()
            self.bytes = max(self.bytes, resident_bytes())
            wait = max(self._interval, 30 * (time.perf_counter() - started))  # PSS of gigabytes takes its time
