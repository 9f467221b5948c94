"""The lines between ``---`` at the head of a Markdown file: ``key: value``, and lists. No YAML beyond that."""

from __future__ import annotations

import re
from typing import Any

from attrs import field, mutable

from inhouse.values import is_metadata

LONGEST = 200
"""Lines; more of them are no front matter."""

WIDEST = 1000
"""Characters of a line; patterns on longer ones could take for ever."""

KEY = re.compile(r"([^\W\d][\w .-]{0,63}):(?:[ \t]+(.*))?$")
ITEM = re.compile(r"[ \t]*-[ \t]+(.*)$")
COMMENT = re.compile(r"[ \t]+#.*$")
PIECE = re.compile(r"""[ \t]*("[^"\\]*"|'[^']*'|[^,\[\]{}"'][^,\[\]{}]*?)[ \t]*(?:,|$)""")
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(\.\d{1,17})?")
PLAIN = {"true": True, "false": False}


class _Nested(Exception):
    """A value that is none of ours."""


@mutable
class FrontMatter:
    """``values`` by key; ``passed`` are the keys that hold what metadata cannot."""

    values: dict[str, Any] = field(factory=dict)
    passed: list[str] = field(factory=list)


def split(text: str) -> tuple[FrontMatter, str]:
    """The front matter of a Markdown text, and the text below it; all of the text when it has none."""
    lines = text[: LONGEST * 1000].split("\n", LONGEST + 1)
    if lines[0].rstrip() != "---":
        return FrontMatter(), text
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")), 0)
    found = _read(lines[1:end]) if end else None
    if found is None:
        return FrontMatter(), text
    return found, text[sum(len(line) + 1 for line in lines[: end + 1]) :]


def _read(lines: list[str]) -> FrontMatter | None:
    """None when the lines are no front matter, but a text between two rules."""
    found, key = FrontMatter(), ""
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) > WIDEST:
            return None
        if named := KEY.match(line):
            key = named[1].strip()
            _keep(found, key, named[2] or "", item=False)
        elif not key:
            return None
        elif item := ITEM.match(line):
            _keep(found, key, item[1], item=True)
        elif line[0] in " \t":  # a table, or a text over several lines
            _pass(found, key)
        else:
            return None
    for key, value in list(found.values.items()):
        if value in ("", []):
            del found.values[key]
    return found if found.values or found.passed else None


def _keep(found: FrontMatter, key: str, written: str, *, item: bool) -> None:
    if key in found.passed:
        return
    try:
        value = _value(written)
        if item:
            before = found.values.get(key)
            if before not in ("", None) and not isinstance(before, list):
                raise _Nested
            value = [*(before or []), value]
        if not is_metadata(value):
            raise _Nested
        found.values[key] = value
    except _Nested:
        _pass(found, key)


def _pass(found: FrontMatter, key: str) -> None:
    found.values.pop(key, None)
    if key not in found.passed:
        found.passed.append(key)


def _value(written: str) -> Any:
    written = COMMENT.sub("", f" {written}").strip() if written[:1] not in ('"', "'") else written.strip()
    if written.startswith("[") and written.endswith("]"):
        return _list(written[1:-1])
    return _scalar(written)


def _list(inside: str) -> list[Any]:
    values, at = [], 0
    while at < len(inside.rstrip()):
        piece = PIECE.match(inside, at)
        if piece is None or piece.end() == at:
            raise _Nested
        values.append(_scalar(piece[1]))
        at = piece.end()
    return values


def _scalar(written: str) -> Any:
    if written[:1] in ('"', "'"):
        if len(written) < 2 or written[-1] != written[0] or written[0] in written[1:-1] or "\\" in written:
            raise _Nested
        return written[1:-1]
    if written[:1] in tuple("[{|>&*!%@`") and written:
        raise _Nested
    if written in ("null", "~"):
        return ""
    number = NUMBER.fullmatch(written)
    if number:
        return float(written) if number[1] else int(written)
    return PLAIN.get(written, written)
