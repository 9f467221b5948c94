"""Reads one turn of the model: two lines, a thought and then an action or the final answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from inhouse.values import Json

_ACTION = re.compile(r"Action: *([A-Za-z][A-Za-z0-9_-]*) +(\{.*\})")
_LONGEST = 20_000  # characters; far above any turn, far below what makes json slow


@frozen
class Action:
    """The model wants a tool called."""

    thought: str
    tool: str
    arguments: Mapping[str, Json]


@frozen
class Final:
    """The model answers."""

    thought: str
    text: str


@frozen
class Unreadable:
    """The turn is none of the two; ``reason`` is written for the model."""

    reason: str


Turn: TypeAlias = Action | Final | Unreadable


def parse_turn(text: str) -> Turn:
    """What the turn says. Total: any text gives a Turn, nothing is guessed and nothing raises."""
    if len(text) > _LONGEST:
        return Unreadable("the turn is too long")
    lines = text.strip().split("\n")
    if len(lines) != 2:
        return Unreadable(f"expected two lines, got {len(lines)}")
    first, second = lines[0].strip(), lines[1].strip()
    thought = first.removeprefix("Thought:").strip()
    if not first.startswith("Thought:") or not thought:
        return Unreadable("the first line must be 'Thought:' and a thought")
    if second.startswith("Action:"):
        return _parse_action(thought, second)
    answer = second.removeprefix("Final:").strip()
    if not second.startswith("Final:") or not answer:
        return Unreadable("the second line must be 'Action:' and a call, or 'Final:' and the answer")
    return Final(thought, answer)


def _parse_action(thought: str, line: str) -> Action | Unreadable:
    match = _ACTION.fullmatch(line)
    if match is None:
        return Unreadable("an action is the name of a tool and its arguments in braces")
    try:
        arguments = json.loads(match[2], object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return Unreadable("the arguments are not valid JSON")
    return Action(thought, match[1], arguments)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """json keeps the last of two equal keys; which one was meant is a guess, so refuse."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")
