"""Whether answers begin with one BOS, and end by themselves where the tuned model's do; if not, what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def marks(told: Mapping[str, Any], ends: set[int], truth: Sequence[Sequence[int]]) -> list[str]:
    """Whether there is never a second BOS, and the token that ends a turn is one that ends generation.

    ``told``: metadata of the GGUF; ``ends``: the tokens that end turns; ``truth``: ids of chats.
    """
    wrong = []
    bos = told.get("tokenizer.ggml.bos_token_id")
    if any([*ids[:2]] == [bos, bos] for ids in truth):
        wrong.append("chats begin with two BOS tokens")
    if missing := _unended(told, ends):
        end = told.get("tokenizer.ggml.eos_token_id")
        known = repr(told["tokenizer.ggml.tokens"][end]) if end is not None else "nothing"
        wrong.append(
            f"{', '.join(map(repr, missing))} ends a turn and does not end generation in the GGUF: {known} does"
        )
    return wrong


def end_token(told: Mapping[str, Any], ends: set[int], original: Path) -> str:
    """What to change where :func:`marks` finds that turns do not end, and the files of ``original`` (``model/hf``) say
    so; '' where the conversion is at fault."""
    missing = _unended(told, ends)
    if len(missing) != 1 or missing == [_eos(original)]:
        return ""
    return (
        f'"eos_token": {json.dumps(missing[0])} in tokenizer_config.json of the base, as its chat template ends turns'
    )


def _unended(told: Mapping[str, Any], ends: set[int]) -> list[str]:
    """The tokens that end turns and not generation."""
    stops = {told.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    return [told["tokenizer.ggml.tokens"][each] for each in sorted(ends - stops)]


def _eos(folder: Path) -> str:
    """The tokenizer's token for the end; '' where it names none."""
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return ""
    return str(found.get("content", "") if isinstance(found, dict) else found or "")


def _question(dialogue: Sequence[Message]) -> Sequence[Message]:
    """A dialogue up to the assistant's last turn."""
    last = max((place for place, turn in enumerate(dialogue) if turn.role == "assistant"), default=len(dialogue))
    return dialogue[:last]
