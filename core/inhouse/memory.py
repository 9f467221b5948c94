"""Resident memory of this process and its children, sampled (Linux; elsewhere the process's own peak)."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def tree_bytes(pid: int | None = None) -> int:
    """Resident bytes of ``pid`` (this process) and all its descendants; shared pages count in each."""
    if not Path("/proc/self/statm").exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    waiting, total = [pid or os.getpid()], 0
    while waiting:
        each = waiting.pop()
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * _PAGE
            for task in Path(f"/proc/{each}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
    return total


class PeakMemory:
    """Samples :func:`tree_bytes` in a thread while the block runs; ``bytes`` is the highest seen."""

    def __init__(self, interval: float = 0.1) -> None:
        self.bytes = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self.bytes = tree_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self.bytes = max(self.bytes, tree_bytes())
