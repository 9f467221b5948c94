"""Events as JSON lines: every run writes them, ``replay`` publishes them again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from attrs import asdict, fields_dict

from inhouse.bus import Bus, Envelope
from inhouse.codec import EventCodec
from inhouse.errors import ArtifactError
from inhouse.events import Event


def encode(envelope: Envelope, codec: EventCodec) -> dict[str, Any]:
    """The envelope's fields with the event as a tagged object."""
    return {**asdict(envelope, recurse=False), "event": codec.encode(envelope.event)}


def decode(data: dict[str, Any], codec: EventCodec) -> Envelope:
    """What :func:`encode` made. Raises ``ArtifactError`` for anything else."""
    try:
        known = {key: value for key, value in data.items() if key in fields_dict(Envelope)}
        return Envelope(**{**known, "event": codec.decode(dict(data["event"]))})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"is no event: {error}") from error


class Journal:
    """Appends every event of a bus to a file, a line each, flushed; a listener like any other."""

    def __init__(self, path: Path, codec: EventCodec) -> None:
        self._stream: TextIO = path.open("a", encoding="utf-8")
        self._codec = codec

    def attach(self, bus: Bus) -> None:
        """Writes behind everything that shows; loses nothing but lossy events when the disk is slow."""
        bus.subscribe_envelopes(Event, self.write, background=10_000)

    def write(self, envelope: Envelope) -> None:
        """One line."""
        self._stream.write(json.dumps(encode(envelope, self._codec), default=str) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Call after ``bus.close()``."""
        self._stream.close()


def read(path: Path, codec: EventCodec) -> Iterator[Envelope]:
    """The envelopes of a journal; a last line cut by a kill is left out.

    Raises ``ArtifactError`` with the line for one that is damaged.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise ArtifactError(f"is no JSON: {error}", where=f"{path}:{number}") from error
        yield decode(data, codec)


def replay(path: Path, bus: Bus, codec: EventCodec) -> int:
    """Publishes a journal's events on ``bus`` and returns how many there were."""
    count = 0
    for count, envelope in enumerate(read(path, codec), 1):  # noqa: B007
        bus.publish(envelope.event)
    return count
