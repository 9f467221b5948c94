"""On a terminal: a live bar for the step that is running; what is done stays above it."""

from __future__ import annotations

import atexit

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from inhouse.events import MetricMeasured, StepProgressed, StepStarted
from inhouse_rich.display import Display
from inhouse_rich.words import amount, clean, duration, rate

_BAR = TaskID(0)  # the only task of a step's Progress


class _Amount(ProgressColumn):
    """``118 of 320 steps, 2.1/s, 1 min 36 s left``"""

    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        if not unit:
            return Text("")
        parts = [amount(task.completed, task.total or 0, unit)]
        if task.speed:
            parts.append(rate(task.speed, unit))
        if task.time_remaining:
            parts.append(f"{duration(task.time_remaining)} left")
        return Text(", ".join(parts))


class LiveDisplay(Display):
    """Bars by rich; its thread draws them ten times a second, whatever the step does."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress: Progress | None = None
        self.text = ""
        atexit.register(self.step_ended)  # a replayed journal may end anywhere

    def step_started(self, event: StepStarted) -> None:
        """A new bar; it pulses until the step says how much there is."""
        self.step_ended()
        self.metrics = {}
        self.text = "going on from a checkpoint" if event.resumed else ""
        self.progress = _bar(self.console)  # a new one each time: rich counts the lines of the last frame
        self.progress.add_task(self.title(event.step, event.backend), total=None, unit="", note=self.text)
        self.progress.start()

    def step_progressed(self, event: StepProgressed) -> None:
        """Moves the bar."""
        if self.progress is not None:
            self.text = event.note
            total, unit = event.total if event.total > 0 else None, clean(event.unit)
            self.progress.update(_BAR, completed=event.done, total=total, unit=unit, note=self.note(event.note))

    def metric_measured(self, event: MetricMeasured) -> None:
        """Shown in the bar's note."""
        super().metric_measured(event)
        if self.progress is not None:
            self.progress.update(_BAR, note=self.note(self.text))

    def step_ended(self) -> None:
        """Takes the bar away and gives the terminal back."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def _bar(console: Console) -> Progress:
    def line(ratio: int | None = None) -> Column:
        return Column(no_wrap=True, overflow="ellipsis", ratio=ratio)

    wide = console.width >= 100
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=line()),
        BarColumn(20 if wide else 10),
        TaskProgressColumn(),
        *([TimeElapsedColumn()] if wide else []),
        _Amount(table_column=line()),
        TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=line(1)),
        console=console,
        expand=True,
        transient=True,
    )
