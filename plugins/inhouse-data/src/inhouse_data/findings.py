"""What was found in the data: each with its file and line, counted by kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from attrs import asdict, field, frozen, mutable

from inhouse.errors import DataError

Action = Literal["stop", "left out", "kept", "mended"]

ERRORS = ("encoding", "json", "format")
"""Kinds that say the file is not what it was taken for; the rest of it cannot be trusted either."""

LISTED = 1000
"""Findings of one kind that are written down; all are counted."""

NAMED = 5
"""Errors that are named in the message."""


@frozen
class Place:
    """A line of a file; ``line`` counts from 1, 0 is the whole file."""

    path: Path
    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)

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
    """Collects findings. ``strict`` makes every kind an error."""

    strict: bool = False
    counts: Counter[str] = field(factory=Counter)
    listed: list[Finding] = field(factory=list)
    first: dict[str, tuple[Place, Finding]] = field(factory=dict)
    _errors: list[tuple[Place, str]] = field(factory=list)

    def add(self, kind: str, place: Place, message: str, action: Action = "left out") -> None:
        """Notes one finding."""
        wrong = self.strict or kind in ERRORS
        found = Finding(kind, place.short, message, "stop" if wrong else action)
        self.counts[kind] += 1
        self.first.setdefault(kind, (place, found))
        if self.counts[kind] <= LISTED:
            self.listed.append(found)
        if wrong:
            self._errors.append((place, message))

    def stop_on_errors(self) -> None:
        """Raises ``DataError`` that names the first few errors, if there are any."""
        if not self._errors:
            return
        place, message = self._errors[0]
        others = "".join(f"\n  {where}: {what}" for where, what in self._errors[1:NAMED])
        more = len(self._errors) - NAMED
        raise DataError(
            message + others + (f"\n  and {more} more" if more > 0 else ""),
            where=str(place),
            hint="mend the lines, or run without strict" if self.strict else "mend the lines and run again",
        )

    def summaries(self) -> list[str]:
        """One line for each kind, with the place of the first."""
        lines = []
        for kind, (place, found) in self.first.items():
            others = self.counts[kind] - 1
            more = f" (and {others} more of this kind)" if others else ""
            lines.append(f"{kind}: {place}: {found.message}: {found.action}{more}")
        return lines

    def as_json(self) -> dict[str, object]:
        """Counts and the listed findings, as plain data."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "findings": [asdict(each) for each in self.listed],
        }
