"""The one cattrs converter and the one JSON form of everything that is stored or sent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from attrs import asdict
from cattrs.preconf.json import make_converter

from inhouse.errors import ArtifactError
from inhouse.events import Event, UnknownEvent

T = TypeVar("T")


converter: Any = make_converter(forbid_extra_keys=True, detailed_validation=True)
"""Strict: unknown keys are errors. Paths are strings."""
converter.register_unstructure_hook(Path, str)
converter.register_structure_hook(Path, lambda value, _: Path(value))


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Canonical JSON: sorted keys, no NaN; attrs classes as objects."""
    return json.dumps(converter.unstructure(value), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent)


def loads(text: str | bytes, as_type: type[T], *, where: str = "JSON") -> T:
    """Reads what :func:`dumps` wrote. Raises ``ArtifactError`` naming ``where`` for anything else."""
    try:
        made: T = converter.structure(json.loads(text), as_type)
    except Exception as error:
        raise ArtifactError(f"is no {as_type.__name__}: {error}", where=where) from error
    return made


class EventCodec:
    """Events to and from tagged JSON objects; types that are not installed survive as data."""

    def __init__(self, types: Iterable[type[Event]]) -> None:
        self._types = {kind.__name__: kind for kind in types}

    def encode(self, event: Event) -> dict[str, Any]:
        """``{"type": name, …fields}``."""
        if isinstance(event, UnknownEvent):
            return {"type": event.type, **event.data}
        return {"type": type(event).__name__, **asdict(event, recurse=True)}

    def decode(self, data: dict[str, Any]) -> Event:
        """The event; :class:`UnknownEvent` when its type or its fields are not those installed."""
        name = str(data.get("type", ""))
        rest = {key: value for key, value in data.items() if key != "type"}
        try:
            made: Event = converter.structure(rest, self._types[name])
        except Exception:
            return UnknownEvent(name, rest)
        return made
