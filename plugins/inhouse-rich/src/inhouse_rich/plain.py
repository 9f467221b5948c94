"""In a log: lines, few of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from inhouse.events import StepProgressed, StepStarted
from inhouse_rich.display import Display
from inhouse_rich.words import amount, clean, duration, rate

_APART, _SILENT, _SHARE = 10.0, 60.0, 0.1
"""Seconds between two progress lines at least; seconds of silence at most; share that is worth a line."""


class PlainLines(Display):
    """No colours, no cursor movements."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self.clock = clock
        self.first: tuple[float, float] | None = None
        self.said = (clock(), 0.0)

    def step_started(self, event: StepStarted) -> None:
        """Says so."""
        self.metrics = {}
        self.first, self.said = None, (self.clock(), 0.0)
        resumed = ", going on from a checkpoint" if event.resumed else ""
        self.say(Text(f"{self.title(event.step, event.backend)} started{resumed}"))

    def step_ended(self) -> None:
        """Nothing to take down: lines stay."""

    def step_progressed(self, event: StepProgressed) -> None:
        """A line when it is time for one."""
        now = self.clock()
        if self.first is None:
            self.first = (now, event.done)
        share = event.done / event.total if event.total > 0 else 0.0
        waited = now - self.said[0]
        if waited < _APART or (waited < _SILENT and share - self.said[1] < _SHARE):
            return
        self.said = (now, share)
        self.say(Text(f"  {clean(event.step)}: {self._how_far(event, now, self.first)}"))

    def mark(self, symbol: str, word: str) -> str:
        """Words are found in logs more easily."""
        return word

    def _how_far(self, event: StepProgressed, now: float, first: tuple[float, float]) -> str:
        unit, left = clean(event.unit), event.total - event.done
        speed = (event.done - first[1]) / (now - first[0]) if now > first[0] else 0.0
        parts = [amount(event.done, event.total, unit)]
        if event.total > 0:
            parts.append(f"{event.done / event.total:.0%}")
        if speed > 0:
            parts += [rate(speed, unit), *([f"{duration(left / speed)} left"] if left > 0 else [])]
        return ", ".join([*parts, *filter(None, [self.note(event.note)])])
