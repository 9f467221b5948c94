"""The checks on one chat: what is wrong with it, and whether it can be learnt from."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from inhouse_data.findings import Action, Place

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SPECIAL = re.compile(r"<\|[A-Za-z_]+\|>|</?s>|\[/?INST\]")
"""What chat templates write between turns; as text it would end a turn in the middle."""


@frozen
class Chat:
    """One chat: where it was read, its id, messages (role, content) and the row's other keys."""

    place: Place
    id: str
    messages: list[dict[str, Any]]
    rest: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """The row of ``train.jsonl``."""
        return {**self.rest, "id": self.id, "messages": self.messages}

    def folded(self) -> str:
        """Roles and texts with white space folded: equal for exact duplicates."""
        return "\n".join(f"{each['role']}: {' '.join(each['content'].split())}" for each in self._said())

    def normalised(self) -> str:
        """Roles and texts by their letters and digits only: equal for near duplicates."""
        return "\n".join(f"{each['role']}: {normal(each['content'])}" for each in self._said())

    def asked(self) -> str:
        """What the user wrote, by its letters and digits only."""
        return "\n".join(normal(each["content"]) for each in self.messages if each["role"] == "user")

    def _said(self) -> list[dict[str, Any]]:
        return [each for each in self.messages if each["role"] != "system"]


def normal(text: str) -> str:
    """Compatibility forms, case, punctuation and spacing taken away."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def estimate_tokens(chat: Chat) -> int:
    """About how many tokens a chat takes: UTF-8 bytes / 4, rounded up, and 4 a message for the template.

    An estimate: English prose in a byte-level BPE vocabulary has 4 to 4.5 bytes a token, code and other
    languages fewer.
    """
    return sum(-(-len(each["content"].encode()) // 4) + 4 for each in chat.messages)


def problems(chat: Chat, max_tokens: int) -> Iterator[tuple[str, str, Action]]:
    """(kind, message, action) for everything wrong with a chat; "left out" says that it is of no use."""
    texts = [each["content"] for each in chat.messages]
    if not _encodable(chat):
        yield "unicode", "has half of a surrogate pair", "left out"
        return
    answers = [each["content"] for each in chat.messages if each["role"] == "assistant"]
    if not answers:
        yield "no-label", "has no assistant's turn to learn", "left out"
    elif any(not answer.strip() for answer in answers):
        yield "empty-answer", "has an empty answer", "left out"
    wrong = wrong_order([each["role"] for each in chat.messages])
    if wrong and answers:
        yield "role-order", wrong, "left out"
    if answers and chat.messages[-1]["role"] != "assistant":
        yield "no-last-answer", "ends without an answer", "kept"
    size = estimate_tokens(chat)
    if max_tokens and size > max_tokens:
        yield "too-long", f"has about {size} tokens (bytes / 4), more than {max_tokens}", "left out"
    for text in texts:
        if found := CONTROL.search(text):
            yield "control-character", f"holds the control character U+{ord(found[0]):04X}", "kept"
            break
    for text in texts:
        if found := SPECIAL.search(text):
            yield "special-token", f"holds {found[0]}, which chat templates use between turns", "kept"
            break


def wrong_order(roles: list[str]) -> str | None:
    """What breaks the order system? (user (assistant (tool+ assistant)*))*, or None."""
    before = "start"
    allowed = {
        "start": ("system", "user"),
        "system": ("user",),
        "user": ("assistant",),
        "assistant": ("user", "tool"),
        "tool": ("tool", "assistant"),
    }
    for at, role in enumerate(roles):
        if role not in allowed[before]:
            after = "at the start" if before == "start" else f"after {before}"
            return f"has the role {role} {after} (message {at + 1})"
        before = role
    return None


def _encodable(chat: Chat) -> bool:
    try:
        json.dumps(chat.row(), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
