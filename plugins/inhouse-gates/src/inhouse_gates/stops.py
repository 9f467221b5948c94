"""Whether answers begin with one BOS, and end by themselves where the tuned model's do."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from inhouse.protocols import Engine
from inhouse.values import Message, Request

from .tokens import tokens

SHORT = 64
"""Tokens within which an answer of the tuned model is to end, so that the quantised one has to."""
_ASKED = 6
_KEPT = 2
_LEAST = 8  # tokens of context that an answer needs


@frozen
class Ended:
    """A chat whose answer the tuned model ends after ``tokens``; ``ids`` of its prompt."""

    chat: Sequence[Message]
    ids: Sequence[int]
    tokens: int


def ended(engine: Engine, dialogues: Sequence[Sequence[Message]], chats: Sequence[Sequence[Message]]) -> list[Ended]:
    """The shortest answers that end by themselves, two at most, to what held-out ``dialogues`` ask and to ``chats``."""
    questions = [_question(each) for each in dialogues]
    asked: list[tuple[Sequence[Message], list[int]]] = []
    for chat in [*questions[: _ASKED - 2], *chats[:2]]:
        ids = tokens(engine, chat) if chat else None
        if ids and len(ids) + _LEAST < engine.context:
            asked.append((chat, ids))
    made = engine.generate([Request(messages=tuple(chat), max_tokens=SHORT) for chat, _ in asked])
    pairs = zip(asked, made, strict=True)
    found = [Ended(chat, ids, each.completion_tokens) for (chat, ids), each in pairs if each.finish == "stop"]
    return sorted(found, key=lambda each: each.tokens)[:_KEPT]


def beginnings(engine: Engine, chats: Sequence[Ended], bos: int | None) -> list[str]:
    """What is wrong with how the runtime of the quantised model begins a prompt.

    ``bos``: the token that whoever makes tokens of a text has to put before it, if the GGUF asks for that.
    """
    wrong = []
    requests = [Request(messages=tuple(each.chat), max_tokens=1) for each in chats]
    for each, made in zip(chats, engine.generate(requests), strict=True):
        wanted = len(each.ids) + (bos is not None and [*each.ids[:1]] != [bos])
        if made.prompt_tokens != wanted:
            wrong.append(f"the runtime makes {made.prompt_tokens} tokens of a chat that has {wanted}, with one BOS")
    return wrong


def run_on(engine: Engine, chats: Sequence[Ended]) -> list[str]:
    """Which answers do not end. ``engine`` has the converted weights without rounding: rounded ones may ramble where
    the stop token stops, which is for the gates that judge rounding."""
    requests = [Request(messages=tuple(each.chat), max_tokens=4 * each.tokens + SHORT) for each in chats]
    return [
        f"an answer that the tuned model ends after {each.tokens} tokens does not end within"
        f" {made.completion_tokens}: the stop token does not stop"
        for each, made in zip(chats, engine.generate(requests), strict=True)
        if made.finish != "stop"
    ]


def _question(dialogue: Sequence[Message]) -> Sequence[Message]:
    """A dialogue up to the assistant's last turn."""
    last = max((place for place, turn in enumerate(dialogue) if turn.role == "assistant"), default=len(dialogue))
    return dialogue[:last]
