"""What a stage backend is given while it works (see :class:`inhouse.protocols.Step`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from inhouse import codec
from inhouse.bus import Bus
from inhouse.errors import Interrupted, RecipeError
from inhouse.events import Event, MetricMeasured, Noticed, StepProgressed
from inhouse.plan import PlannedStep
from inhouse.recipe import Recipe
from inhouse.services import LiveServices
from inhouse.values import Artifact, Json, StepRecord

T = TypeVar("T")
_EVERY = 0.05
"""Seconds between two progress events of one step."""


class RunningStep:
    """Publishes a step's events and hands it its folders and services."""

    def __init__(
        self,
        planned: PlannedStep,
        bus: Bus,
        services: LiveServices,
        *,
        recipe: Recipe,
        outputs: Mapping[str, Path],
        checkpoints: Path,
        history: Sequence[StepRecord],
        cancel: threading.Event,
        earlier: Callable[[], Iterable[Artifact]] = tuple,
    ) -> None:
        self.name = planned.name
        self.recipe = recipe.name
        self.seed = recipe.seed
        self.target = recipe.target
        self.outputs = outputs
        self.output = next(iter(outputs.values()))
        self.checkpoints = checkpoints
        self.history = history
        self.earlier = earlier
        self.facts: dict[str, Json] = {}
        self._planned = planned
        self._bus = bus
        self.services = services
        self._cancel = cancel
        self._told = 0.0
        self._live: dict[str, Any] = {}

    def track(self, items: Iterable[T], *, total: int | None = None, unit: str = "item") -> Iterator[T]:
        """Yields ``items`` with progress."""
        size = total if total is not None else (len(items) if isinstance(items, Sequence) else 0)
        done = 0
        for item in items:
            self.progress(done, size, unit=unit)
            yield item
            done += 1
        self.progress(done, size or done, unit=unit)

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        """Says how far it is, at most 20 times a second; the last one is always said."""
        if self._cancel.is_set():
            raise Interrupted(f"step {self.name} was stopped; finished work is kept", hint="run the same command again")
        now = time.monotonic()
        if now - self._told >= _EVERY or done >= total > 0:
            self._told = now
            self._bus.publish(StepProgressed(self.name, done, total, unit, note))

    def publish(self, event: Event) -> None:
        """Tells everybody a fact."""
        self._bus.publish(event)

    def metric(self, name: str, value: float, *, at: int) -> None:
        """Publishes one measured value."""
        self._bus.publish(MetricMeasured(self.name, name, value, at))

    def notice(self, message: str, *, level: Literal["info", "warning"] = "info") -> None:
        """Tells the user one line."""
        self._bus.publish(Noticed(self.name, message, level))

    def note(self, **facts: Json) -> None:
        """Keeps facts with the artifact. Raises ``TypeError`` or ``ValueError`` for what JSON has no form of."""
        codec.dumps(facts)
        self.facts.update(facts)

    def service(self, slot: str) -> Any:
        """The live service in a slot of the spec."""
        if slot not in self._planned.chosen.slots:
            known = ", ".join(self._planned.chosen.slots) or "none"
            raise RecipeError(f"step {self.name} has no slot {slot!r} (its spec declares: {known})")
        if slot not in self._live:
            self._live[slot] = self.services.slot(self._planned.chosen.slots[slot])
        return self._live[slot]
