"""What form data from JSON has to have, and the first place where it has another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from inhouse.values import Json


@frozen
class Shape:
    """A value of just this ``kind`` (or null, with ``null``). Texts match ``pattern``; whole numbers are not below 0;
    tables have ``fields``, ``only`` these if it says so; ``each`` is the form of every further value."""

    kind: type[Any]
    null: bool = False
    pattern: str | None = None
    fields: Mapping[str, "Shape"] = field(factory=dict)
    each: "Shape | None" = None
    only: bool = False


_NAMES = {str: "a text", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}


def wrong(value: Json, shape: Shape, path: str = "") -> str | None:
    """What is wrong with ``value`` and where; None when nothing is."""
    if value is None and shape.null:
        return None
    if type(value) is not shape.kind:
        return f"{path or 'the whole'} is not {_NAMES[shape.kind]}"
    said = _itself(value, shape)
    return f"{path or 'the whole'} {said}" if said else _within(value, shape, path)


def _itself(value: Json, shape: Shape) -> str | None:
    if isinstance(value, str) and shape.pattern and not re.fullmatch(shape.pattern, value):
        return f"is {value[:80]!r}"
    if shape.kind is int and not 0 <= value < 1 << 63:
        return "is out of range"
    if isinstance(value, dict):
        missing = next((key for key in shape.fields if key not in value), None)
        if missing:
            return f"has no {missing!r}"
        if shape.only and len(value) > len(shape.fields):
            return "has further keys"
    return None


def _within(value: Json, shape: Shape, path: str) -> str | None:
    """The same for what is in a list or table. Paths are cut: keys may be of any length."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        form = shape.fields.get(key, shape.each) if isinstance(key, str) else shape.each
        if form is not None:
            place = f"[{key}]" if isinstance(key, int) else f"{'.' if path else ''}{key[:40]}"
            said = wrong(inner, form, f"{path}{place}")
            if said:
                return said
    return None
