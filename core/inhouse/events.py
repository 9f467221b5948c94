"""Facts in the past tense. Plugins add their own by subclassing :class:`Event` (hook ``inhouse_event_types``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen


@frozen
class Event:
    """Base of all events. ``lossy`` events may be dropped for a slow listener; drops are counted."""

    lossy: ClassVar[bool] = False


@frozen
class UnknownEvent(Event):
    """An event read from a journal whose type is not installed; its data survives as it was."""

    type: str
    data: Mapping[str, Any]


# --- the bus itself ---------------------------------------------------------------------------------


@frozen
class ListenerFailed(Event):
    """A listener raised; the others were called all the same."""

    listener: str
    event: str
    error: str


@frozen
class EventsDropped(Event):
    """A slow listener missed this many lossy events since it last kept up."""

    listener: str
    count: int


@frozen
class PluginFailed(Event):
    """A plugin did not load or broke a hook; it is left out."""

    plugin: str
    reason: str


# --- a run ------------------------------------------------------------------------------------------


@frozen
class RunStarted(Event):
    """``steps`` are the names in order."""

    recipe: str
    steps: tuple[str, ...]


@frozen
class RunFinished(Event):
    """The report of the run is written; ``bundle`` is the folder that gets deployed, if one was made."""

    recipe: str
    seconds: float
    peak_memory_bytes: int
    bundle: str | None = None


@frozen
class RunFailed(Event):
    """The run ended early; finished steps and checkpoints are kept."""

    recipe: str
    error: str


@frozen
class StepStarted(Event):
    """``resumed`` says that the step goes on from a checkpoint."""

    step: str
    stage: str
    backend: str
    position: int
    total: int
    resumed: bool = False


@frozen
class StepProgressed(Event):
    """How far a step is, in ``unit``."""

    lossy: ClassVar[bool] = True

    step: str
    done: float
    total: float
    unit: str
    note: str = ""


@frozen
class MetricMeasured(Event):
    """One value of a series, such as the training loss at optimiser step ``at``."""

    lossy: ClassVar[bool] = True

    step: str
    name: str
    value: float
    at: int


@frozen
class Noticed(Event):
    """One line for the user. ``level`` is info or warning."""

    step: str
    message: str
    level: str = "info"


@frozen
class ArtifactCommitted(Event):
    """A step's product is in the store."""

    step: str
    kind: str
    path: str
    digest: str
    bytes: int


@frozen
class StepFinished(Event):
    """``cached`` steps were found in the store and did no work."""

    step: str
    stage: str
    backend: str
    seconds: float
    cached: bool
    peak_memory_bytes: int = 0
    meta: Mapping[str, Any] = field(factory=dict)


@frozen
class StepFailed(Event):
    """``error`` is what the user is told."""

    step: str
    stage: str
    backend: str
    error: str


CORE_EVENTS: tuple[type[Event], ...] = tuple(
    each
    for each in list(vars().values())
    if isinstance(each, type) and issubclass(each, Event) and each not in (Event, UnknownEvent)
)
