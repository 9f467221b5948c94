"""Three ways in which chats are written, all turned into messages.

messages: ``{"messages": [{"role", "content"}]}`` (OpenAI, TRL); alpaca: ``{"instruction", "input", "output"}``
(Stanford Alpaca); sharegpt: ``{"conversations": [{"from", "value"}]}`` (FastChat, Vicuna).
"""

from __future__ import annotations

from typing import Any, Literal

Format = Literal["messages", "alpaca", "sharegpt"]

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


class FormatError(ValueError):
    """A row is not in the format it was taken for; the message says what is missing."""


def detect(row: dict[str, Any]) -> Format:
    """Which format a row is in, told by its keys. Raises ``FormatError``."""
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    keys = ", ".join(sorted(map(str, row))[:6]) or "no keys"
    raise FormatError(
        f"is in no known format: it has {keys}; known are messages, conversations, or instruction and output"
    )


def to_messages(row: dict[str, Any], form: Format) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages of a row (role, content and what else they had), and the row's other keys.

    Raises ``FormatError`` when a field is missing or is no text, or a role is unknown.
    """
    if form == "messages":
        return _turns(row, "messages", "role", "content", {role: role for role in ROLES})
    if form == "sharegpt":
        return _turns(row, "conversations", "from", "value", SHAREGPT_ROLES)
    return _alpaca(row)


def _turns(
    row: dict[str, Any], key: str, role_key: str, text_key: str, roles: dict[str, str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    turns = row.get(key)
    if not isinstance(turns, list) or not turns:
        raise FormatError(f"{key} is no list with at least one turn")
    messages = []
    for at, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise FormatError(f"{key}[{at}] is no object")
        role = turn.get(role_key)
        if not isinstance(role, str) or role not in roles:
            raise FormatError(f"{key}[{at}].{role_key} is {role!r}; known are {', '.join(roles)}")
        rest = {name: value for name, value in turn.items() if name not in (role_key, text_key)}
        content = _text(turn.get(text_key), f"{key}[{at}].{text_key}")
        messages.append({"role": roles[role], "content": content, **rest})
    return messages, {name: value for name, value in row.items() if name != key}


def _alpaca(row: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    question = _text(row.get("instruction"), "instruction")
    extra = _text(row.get("input") or "", "input")
    messages = [
        {"role": "user", "content": f"{question}\n\n{extra}" if extra.strip() else question},
        {"role": "assistant", "content": _text(row.get("output"), "output")},
    ]
    if isinstance(row.get("system"), str):
        messages.insert(0, {"role": "system", "content": row["system"]})
    rest = {key: value for key, value in row.items() if key not in ("instruction", "input", "output", "system")}
    return messages, rest


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where} is no text but {type(value).__name__}")
    return value
