"""A run's folder: its journal, its record, and how to find the last one.

<home>/runs/<id>/events.jsonl   every event
                /run.json       the record, also of a run that failed
<home>/runs/latest              the id of the last run that was started
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from attrs import evolve, frozen

from inhouse import codec
from inhouse.artifacts import write_text
from inhouse.bus import Bus
from inhouse.codec import EventCodec
from inhouse.errors import RecipeError
from inhouse.events import Event
from inhouse.journal import Journal
from inhouse.recipe import Recipe
from inhouse.values import StepRecord


@frozen
class RunRecord:
    """How a run went. ``bundle`` and ``report`` are folders; ``error`` is what the user was told."""

    id: str
    recipe: str
    recipe_path: str
    started: float
    seconds: float = 0.0
    steps: tuple[StepRecord, ...] = ()
    peak_memory_bytes: int = 0
    bundle: str | None = None
    report: str | None = None
    error: str | None = None


@frozen
class OpenRun:
    """A run that is under way; ``record`` is as it stands at its start."""

    folder: Path
    bus: Bus
    record: RunRecord

    def finish(self, steps: Sequence[StepRecord], seconds: float, **ended: str | None) -> RunRecord:
        """Writes the record; ``ended`` are its bundle, report and error. The peak is that of the hungriest step, cached
        ones as they were made.
        """
        peak = max((each.peak_memory_bytes for each in steps), default=0)
        facts: dict[str, Any] = {"steps": tuple(steps), "seconds": seconds, "peak_memory_bytes": peak, **ended}
        record = evolve(self.record, **facts)
        write_text(self.folder / "run.json", codec.dumps(record, indent=1))
        return record


@contextmanager
def open_run(home: Path, recipe: Recipe, events: EventCodec, listener: Bus | None) -> Iterator[OpenRun]:
    """A new run folder with a bus whose events go to its journal, and to ``listener`` if there is one."""
    key = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = home / "runs" / key
    folder.mkdir(parents=True)
    write_text(home / "runs" / "latest", key)
    bus = Bus(run=key)
    journal = Journal(folder / "events.jsonl", events)
    journal.attach(bus)
    if listener is not None:
        bus.subscribe(Event, listener.publish)
    structlog.contextvars.bind_contextvars(run=key)
    try:
        yield OpenRun(folder, bus, RunRecord(key, recipe.name, str(recipe.path), time.time()))
    finally:
        structlog.contextvars.unbind_contextvars("run")
        bus.close()
        journal.close()


def last_run(home: Path, key: str | None = None) -> Path:
    """The folder of a run, of the last one by default. Raises ``RecipeError`` when there is none."""
    latest = home / "runs" / "latest"
    if key is None and latest.is_file():
        key = latest.read_text().strip()
    if key is None or not (home / "runs" / key).is_dir():
        raise RecipeError("no run yet" if key is None else f"no run {key}", where=str(home), hint="inhouse run RECIPE")
    return home / "runs" / key


def load_record(folder: Path) -> RunRecord:
    """The record of a run. Raises ``RecipeError`` for one that has not ended."""
    path = folder / "run.json"
    if not path.is_file():
        raise RecipeError("this run has not ended (or was killed)", where=str(folder), hint="inhouse run RECIPE")
    return codec.loads(path.read_bytes(), RunRecord, where=str(path))
