"""What was found in the documents: each with its file and line, counted by kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from attrs import field, frozen, mutable

Action = Literal["left out", "kept", "mended"]

LISTED = 1000
"""Findings that are kept one by one; all are counted."""


@frozen
class Place:
    """A line of a file; ``line`` counts from 1, 0 is the whole file. ``name`` is its path within the folder."""

    path: Path
    name: str
    line: int = 0

    def at(self, line: int) -> "Place":
        """A line of the same file."""
        return Place(self.path, self.name, line)

    @property
    def short(self) -> str:
        """Name within what the user gave, and line; the same on every machine."""
        return f"{self.name}:{self.line}" if self.line else self.name


@frozen
class Finding:
    """One thing that is wrong: ``place`` is ``name:line``, ``action`` what was done about it."""

    kind: str
    place: str
    message: str
    action: Action


@mutable
class Findings:
    """Collects findings; holds the first of each kind, and the first thousand of those that were left out."""

    counts: Counter[str] = field(factory=Counter)
    skipped: list[Finding] = field(factory=list)
    first: dict[str, Finding] = field(factory=dict)

    def add(self, kind: str, place: Place, message: str, action: Action = "left out") -> None:
        """Notes one finding."""
        found = Finding(kind, place.short, message, action)
        self.counts[kind] += 1
        self.first.setdefault(kind, found)
        if action == "left out" and len(self.skipped) < LISTED:
            self.skipped.append(found)

    def summaries(self) -> list[str]:
        """One line for each kind, with the place of the first."""
        lines = []
        for kind, found in self.first.items():
            others = self.counts[kind] - 1
            more = f" (and {others} more of this kind)" if others else ""
            lines.append(f"{kind}: {found.place}: {found.message}: {found.action}{more}")
        return lines

    def listed(self) -> list[dict[str, str]]:
        """What was left out, as plain data."""
        return [{"path": each.place, "kind": each.kind, "reason": each.message} for each in self.skipped]
