"""What both displays share: the events they hear, lines that stay, the tables at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rich.console import Console
from rich.text import Text

from inhouse import events
from inhouse.bus import Bus
from inhouse_rich.summary import Summary
from inhouse_rich.words import clean, duration, size


class Display(ABC):
    """Prints on ``console``; subclasses say how a running step looks."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.summary = Summary()
        self.steps: tuple[str, ...] = ()
        self.metrics: dict[str, float] = {}
        self.failed = False

    def attach(self, bus: Bus, *, quiet: bool = False) -> None:
        """Subscribes to what is shown; ``quiet``: warnings and failures."""
        bus.subscribe(events.RunStarted, self.run_started)
        bus.subscribe(events.StepFailed, self.step_failed)
        bus.subscribe(events.RunFailed, self.run_failed)
        bus.subscribe(events.Noticed, lambda e: self.noticed(e, quiet))
        bus.subscribe(events.ListenerFailed, lambda e: self.warn(f"listener {e.listener} at {e.event}: {e.error}"))
        bus.subscribe(events.PluginFailed, lambda e: self.warn(f"plugin {e.plugin} is left out: {e.reason}"))
        if not quiet:
            bus.subscribe(events.StepStarted, self.step_started)
            bus.subscribe(events.StepProgressed, self.step_progressed)
            bus.subscribe(events.MetricMeasured, self.metric_measured)
            bus.subscribe(events.ArtifactCommitted, self.summary.committed)
            bus.subscribe(events.StepFinished, self.step_finished)
            bus.subscribe(events.RunFinished, self.run_finished)

    @abstractmethod
    def step_started(self, event: events.StepStarted) -> None:
        """A step begins."""

    @abstractmethod
    def step_progressed(self, event: events.StepProgressed) -> None:
        """A step goes on."""

    @abstractmethod
    def step_ended(self) -> None:
        """No step is running now."""

    def run_started(self, event: events.RunStarted) -> None:
        """Learns the steps' order."""
        self.steps = event.steps

    def metric_measured(self, event: events.MetricMeasured) -> None:
        """Keeps the latest value of each metric, for the step's note."""
        self.metrics[event.name] = event.value

    def step_finished(self, event: events.StepFinished) -> None:
        """One line that stays."""
        self.step_ended()
        self.summary.steps.append(event)
        line = Text.assemble((self.mark("✓", "done"), "green"), " ", self.title(event.step, event.backend), "  ")
        if event.cached:
            line.append("found in the store", "dim")
        else:
            line.append(duration(event.seconds), "bold")
            line.append(f"  {size(event.peak_memory_bytes)} of memory" if event.peak_memory_bytes else "", "dim")
        self.say(line)

    def step_failed(self, event: events.StepFailed) -> None:
        """The first line of the error; who started the run shows all of it."""
        self.step_ended()
        self.failed = True
        title = f"{self.mark('✗', 'failed')} {self.title(event.step, event.backend)}  "
        self.say(Text.assemble((title, "bold red"), clean(event.error.partition("\n")[0])))

    def run_failed(self, event: events.RunFailed) -> None:
        """Said only when no step has said it."""
        self.step_ended()
        if not self.failed:
            self.say(Text(f"the run failed: {clean(event.error.partition(chr(10))[0])}", "bold red"))

    def run_finished(self, event: events.RunFinished) -> None:
        """The tables, where things lie and what to type."""
        self.step_ended()
        for table in self.summary.tables(event):
            self.console.print()
            self.console.print(table)
        self.console.print()
        for label, text in self.summary.closing(event):
            self.say(Text.assemble((f"{label:12}", "dim"), text))

    def noticed(self, event: events.Noticed, quiet: bool = False) -> None:
        """One line from a step."""
        if event.level == "warning":
            self.warn(f"{event.step}: {event.message}")
        elif not quiet:
            self.say(Text(f"  {clean(event.step)}: {clean(event.message)}", "dim"))

    def warn(self, message: str) -> None:
        """One line that stands out."""
        self.say(Text.assemble(("warning: ", "bold yellow"), clean(message)))

    def say(self, line: Text) -> None:
        """Prints a line, wrapped by the terminal and not by us."""
        self.console.print(line, soft_wrap=True)

    def title(self, step: str, backend: str) -> str:
        """``[4/8] finetune (lora)``."""
        place = f"[{self.steps.index(step) + 1}/{len(self.steps)}] " if step in self.steps else ""
        return f"{place}{clean(step)} ({clean(backend)})"

    def note(self, text: str) -> str:
        """A step's own note, and its latest metrics."""
        measured = [f"{clean(name)} {value:.4g}" for name, value in self.metrics.items()]
        return ", ".join(filter(None, [clean(text), *measured]))

    def mark(self, symbol: str, word: str) -> str:
        """A symbol where it can be printed."""
        return word if self.console.options.ascii_only else symbol
