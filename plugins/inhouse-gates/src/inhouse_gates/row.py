"""What a gate says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from inhouse.values import Json


@frozen
class Row:
    """One gate: ``measured`` is a line for the user, ``change`` what to do where it failed, ``figures`` for scripts."""

    gate: str
    state: Literal["passed", "failed", "skipped"]
    measured: str
    change: str = ""
    figures: Mapping[str, Json] = field(factory=dict)


def judged(gate: str, holds: bool, measured: str, change: str, **figures: Json) -> Row:
    """A gate that was measured."""
    return Row(gate, "passed" if holds else "failed", measured, "" if holds else change, figures)
