"""A step that keeps what it is told, and can be killed: for tests of trainers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field

from inhouse.events import Event
from inhouse.values import Artifact

T = TypeVar("T")


class Killed(BaseException):
    """What a test stops a trainer with."""


@define
class RecordingStep:
    """Keeps metrics, notes, notices and events; ``kill_at`` raises after that many steps."""

    outputs: dict[str, Path]
    checkpoints: Path
    seed: int = 7
    kill_at: int = 0
    name: str = "train"
    losses: list[tuple[int, float]] = field(factory=list)
    heldout: list[tuple[int, float]] = field(factory=list)
    notices: list[str] = field(factory=list)
    facts: dict[str, Any] = field(factory=dict)
    events: list[Event] = field(factory=list)
    history: Sequence[Any] = ()
    services: dict[str, Any] = field(factory=dict)

    @classmethod
    def at(cls, folder: Path, *kinds: str, kill_at: int = 0) -> "RecordingStep":
        """Folders under ``folder``; the same one twice shares the checkpoints, as a resumed run does."""
        outputs = {kind: folder / kind.replace("/", "-") for kind in kinds or ("model/hf",)}
        for each in (*outputs.values(), folder / "checkpoints"):
            each.mkdir(parents=True, exist_ok=True)
        return cls(outputs, folder / "checkpoints", kill_at=kill_at)

    @property
    def output(self) -> Path:
        """The first output."""
        return next(iter(self.outputs.values()))

    def track(self, items: Iterable[T], **_: Any) -> Iterator[T]:
        """The items."""
        yield from items

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        """Raises when it is time."""
        if self.kill_at and done == self.kill_at:
            raise Killed

    def metric(self, name: str, value: float, *, at: int) -> None:
        """Keeps losses."""
        if name == "loss":
            self.losses.append((at, value))
        if name == "heldout_loss":
            self.heldout.append((at, value))

    def publish(self, event: Event) -> None:
        """Keeps the event."""
        self.events.append(event)

    def notice(self, message: str, *, level: str = "info") -> None:
        """Keeps the line."""
        self.notices.append(message)

    def earlier(self) -> Iterable[Artifact]:
        """Nothing was made before."""
        return ()

    def service(self, slot: str) -> Any:
        """What the test put there."""
        return self.services[slot]

    def note(self, **facts: Any) -> None:
        """Keeps the facts."""
        self.facts.update(facts)
