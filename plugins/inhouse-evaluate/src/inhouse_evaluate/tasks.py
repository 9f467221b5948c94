"""Tasks and examples: JSON lines, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from attrs import field, frozen

from inhouse.errors import DataError
from inhouse.values import Json, Message


@frozen
class ExpectedCall:
    """A call the agent has to make: equal ``arguments``, an equal ``value``, or a document it ``finds``."""

    tool: str
    arguments: Mapping[str, Json] | None = None
    value: Decimal | None = None
    finds: str | None = None


@frozen
class Task:
    """A question with its check. Of every group in ``answer`` one string has to be in the final answer."""

    id: str
    kind: str
    question: str
    calls: tuple[ExpectedCall, ...] = ()
    answer: tuple[tuple[str, ...], ...] = ()
    cites: tuple[str, ...] = ()
    hand_over: bool = field(default=False)


def load_tasks(path: Path) -> list[Task]:
    """All tasks of a file. Raises ``DataError`` with file and line for the first that is malformed."""
    tasks: dict[str, Task] = {}
    for where, row in _rows(path):
        task = _task(row, where)
        if task.id in tasks:
            raise DataError(f"the id '{task.id}' occurs twice", where=where)
        tasks[task.id] = task
    if not tasks:
        raise DataError("there are no tasks", where=str(path))
    return list(tasks.values())


def load_examples(path: Path) -> list[Message]:
    """The turns of all dialogues of a file, one after the other; system messages are left out."""
    turns = []
    for where, row in _rows(path):
        turns += [turn for turn in messages(row, where) if turn.role != "system"]
    return turns


def load_dialogues(path: Path, limit: int) -> list[list[Message]]:
    """The first ``limit`` dialogues of a chat file, system messages included."""
    if limit <= 0:
        return []
    found = []
    for where, row in _rows(path):
        found.append(messages(row, where))
        if len(found) == limit:
            break
    return found


def messages(row: Mapping[str, Json], where: str) -> list[Message]:
    """The ``messages`` of a row. Raises ``DataError``."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise DataError("'messages' must be a list of turns", where=where)
    made = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise DataError("a turn needs 'role' and 'content'", where=where)
        if turn.get("role") not in ("system", "user", "assistant"):
            raise DataError(f"unknown role {turn.get('role')!r}", where=where)
        made.append(Message(turn["role"], turn["content"]))
    return made


def _rows(path: Path) -> list[tuple[str, dict[str, Json]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", where=where) from error
        if not isinstance(row, dict):
            raise DataError("a row must be a JSON object", where=where)
        rows.append((where, row))
    return rows


def _task(row: Mapping[str, Json], where: str) -> Task:
    for key in ("id", "kind", "question"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise DataError(f"a task needs '{key}', a string", where=where)
    calls, groups, cites = row.get("calls", []), row.get("answer", []), row.get("cites", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise DataError("'calls' must be a list of objects", where=where)
    if not isinstance(groups, list) or not all(_strings(group) and group for group in groups):
        raise DataError("'answer' must be a list of lists of strings", where=where)
    if not _strings(cites):
        raise DataError("'cites' must be a list of strings", where=where)
    if not isinstance(row.get("hand_over", False), bool):
        raise DataError("'hand_over' must be true or false", where=where)
    return Task(
        id=row["id"],
        kind=row["kind"],
        question=row["question"],
        calls=tuple(_expected(call, where) for call in calls),
        answer=tuple(tuple(group) for group in groups),
        cites=tuple(cites),
        hand_over=row.get("hand_over", False),
    )


def _strings(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _expected(call: Mapping[str, Json], where: str) -> ExpectedCall:
    unknown = sorted(call.keys() - {"tool", "arguments", "value", "finds"})
    if unknown:
        raise DataError(f"a call has no key '{unknown[0]}'; it has tool, arguments, value, finds", where=where)
    if not isinstance(call.get("tool"), str):
        raise DataError("a call needs 'tool', a string", where=where)
    if not isinstance(call.get("arguments", {}), dict) or not isinstance(call.get("finds", ""), str):
        raise DataError("'arguments' must be an object and 'finds' a string", where=where)
    value = None
    if "value" in call:
        value = decimal_of(str(call["value"]))
        if value is None:
            raise DataError(f"'value' must be a number, not {call['value']!r}", where=where)
    return ExpectedCall(call["tool"], call.get("arguments"), value, call.get("finds"))


def decimal_of(text: str) -> Decimal | None:
    """The number that the whole text is, or None."""
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
