"""Translates simple regular expressions into GBNF, the grammar language of llama.cpp.

The notation is described in llama.cpp's ``grammars/README.md``. Only patterns whose every match is plain
inside a JSON string (no quote, backslash or control character) are translated.
"""

from __future__ import annotations

import re

MOST_STATES = 256  # a bounded repetition is unrolled by llama.cpp; large ones make every token slow

_SETS = {"d": "0-9", "w": "0-9A-Za-z_"}
_PLAIN_ESCAPES = frozenset(".^$*+?{}[]()|-/")
_REPEAT = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")


class NotSimple(Exception):
    """The pattern needs more than the translation knows."""


def pattern_to_gbnf(pattern: str) -> str | None:
    """An expression that matches a subset of ``pattern`` (full match), or None when it is not simple.

    It is a subset because ``\\d`` and ``\\w`` mean ASCII here, while Python's include other scripts.
    """
    body = pattern.removeprefix("^")
    if body.endswith("$") and not body.endswith("\\$"):
        body = body[:-1]
    try:
        reader = _Reader(body)
        expression, _ = reader.alternatives()
        reader.expect_end()
    except NotSimple:
        return None
    return f"({expression})"


class _Reader:
    """Recursive descent over the pattern; each method returns (GBNF, number of states it unrolls to)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise NotSimple
        self.at += 1
        return char

    def expect_end(self) -> None:
        if self.peek():
            raise NotSimple

    def alternatives(self) -> tuple[str, int]:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.take()
            branches.append(self.sequence())
        states = sum(count for _, count in branches)
        if len(branches) == 1:
            return branches[0]
        return " | ".join(text for text, _ in branches), states

    def sequence(self) -> tuple[str, int]:
        parts: list[str] = []
        states = 0
        while self.peek() not in ("", "|", ")"):
            text, count = self.repeated(*self.atom())
            states += count
            if states > MOST_STATES:
                raise NotSimple
            parts.append(text)
        return " ".join(parts) or '""', states

    def atom(self) -> tuple[str, int]:
        char = self.take()
        if char == "(":
            return self.group()
        if char == "[":
            return self.char_class(), 1
        if char == "\\":
            return self.escape()
        if char in ".^$*+?{}":  # '.' would let quotes through
            raise NotSimple
        return f'"{_escaped(char)}"', 1

    def group(self) -> tuple[str, int]:
        if self.peek() == "?":
            self.take()
            if self.take() != ":":
                raise NotSimple
        self.depth += 1
        if self.depth > 8:
            raise NotSimple
        text, states = self.alternatives()
        self.depth -= 1
        if self.take() != ")":
            raise NotSimple
        return f"({text})", states

    def escape(self) -> tuple[str, int]:
        char = self.take()
        if char in _SETS:
            return f"[{_SETS[char]}]", 1
        if char in _PLAIN_ESCAPES:
            return f'"{_escaped(char)}"', 1
        raise NotSimple

    def char_class(self) -> str:
        members: list[str] = []
        if self.peek() in ("^", "]"):
            raise NotSimple
        while self.peek() != "]":
            low = self.class_member()
            if len(low) == 1 and self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.take()
                high = self.class_member()
                if len(high) != 1 or low > high or _crosses_unsafe(low, high):
                    raise NotSimple
                members.append(f"{_escaped(low)}-{_escaped(high)}")
            else:
                members.append(low if len(low) > 1 else _escaped(low))
        self.take()
        return "[" + "".join(members) + "]"

    def class_member(self) -> str:
        char = self.take()
        if char != "\\":
            return char
        char = self.take()
        if char in _SETS:
            return _SETS[char]
        if char in _PLAIN_ESCAPES:
            return char
        raise NotSimple

    def repeated(self, text: str, states: int) -> tuple[str, int]:
        char = self.peek()
        if char and char in "?*+":
            self.take()
            repeat, most = char, 1
        elif char == "{":
            match = _REPEAT.match(self.text, self.at)
            if match is None:
                raise NotSimple
            self.at = match.end()
            repeat, most = match[0], int(match[3] or match[1])
            if most == 0 or int(match[1]) > most:
                raise NotSimple
        else:
            return text, states
        if self.peek() and self.peek() in "?*+{":  # lazy, possessive or repeated repetition
            raise NotSimple
        return text + repeat, states * max(most, 1)


def _crosses_unsafe(low: str, high: str) -> bool:
    return any(low <= char <= high for char in '"\\\x7f')


def _escaped(char: str) -> str:
    """One character for a GBNF literal or class; NotSimple when JSON would have to escape it."""
    code = ord(char)
    if code < 0x20 or code == 0x7F or char in '"\\' or 0xD800 <= code <= 0xDFFF:
        raise NotSimple
    if char.isascii():
        return char if char.isalnum() or char in " _" else f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
