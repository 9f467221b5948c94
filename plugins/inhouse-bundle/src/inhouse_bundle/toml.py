"""Plain data as TOML: what ``tomllib`` reads back as the same data. The standard library has no writer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from inhouse.values import Json


def dumps(data: Mapping[str, Json]) -> str:
    """A document: values first, then tables. ``None`` has no form in TOML and is left out."""
    return "\n".join(_table(data, ())).lstrip("\n") + "\n"


def _table(data: Mapping[str, Json], path: tuple[str, ...]) -> list[str]:
    tables = {key: each for key, each in data.items() if isinstance(each, Mapping)}
    values = {key: each for key, each in data.items() if key not in tables and each is not None}
    lines = [f"{_key(key)} = {_value(each)}" for key, each in values.items()]
    if path and (lines or not tables):
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, each in tables.items():
        lines += _table(each, (*path, key))
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    """JSON's escapes are TOML's too, but for DEL, which JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each) for each in value if each is not None)}]"
    return _text(str(value))
