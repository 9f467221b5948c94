"""What the measured processes share, ours and the peers': the job, the clock, peak memory and the answer.

Peers import this in an environment that holds nothing of ours, so it needs the standard library only.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def job() -> dict[str, Any]:
    """What the parent asked for."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def answer(**facts: Any) -> None:
    """The last line on standard output, as JSON."""
    print()  # whatever a library left unfinished on its line
    print(json.dumps(facts), flush=True)


def peak_bytes() -> int:
    """The largest resident memory that this process has had so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def versions(*names: str) -> dict[str, str]:
    """Installed versions of distributions."""
    return {name: version(name) for name in names}


class Clock:
    """Wall time of steps ``warmup`` + 1 to ``warmup`` + ``steps``, and the peak memory up to there."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps = warmup, steps
        self.seconds = 0.0
        self.peak_bytes = 0
        self._started = time.perf_counter()

    def begin(self) -> None:
        """To be called before the first step by those that may have no warm-up."""
        self._started = time.perf_counter()

    def step_done(self, step: int) -> None:
        """To be called at the end of each step, counted from 1."""
        if step == self.warmup:
            self._started = time.perf_counter()
        if step == self.warmup + self.steps:
            self.seconds = time.perf_counter() - self._started
            self.peak_bytes = peak_bytes()
