"""The plugin that comes with the core: the local executor, the core's events, and log lines that name their step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

import structlog

from inhouse.events import CORE_EVENTS, Event
from inhouse.hookspecs import hookimpl
from inhouse.protocols import Step
from inhouse.specs import ExecutorSpec, NoOptions


class LocalExecutor:
    """Runs a step's work in this process and thread."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def execute(self, work: Callable[[], None]) -> None:
        """Does the work."""
        work()


@hookimpl
def inhouse_executors() -> Iterable[ExecutorSpec]:
    """The executor ``local``."""
    yield ExecutorSpec(name="local", summary="In this process", factory="inhouse.builtin:LocalExecutor")


@hookimpl
def inhouse_event_types() -> Iterable[type[Event]]:
    """The events of the core."""
    return CORE_EVENTS


@hookimpl
def inhouse_step(step: Step) -> Generator[None, None, None]:
    """Log lines inside a step name it."""
    structlog.contextvars.bind_contextvars(step=step.name)
    yield
    structlog.contextvars.unbind_contextvars("step")
