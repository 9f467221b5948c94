"""The token ids of chats, through every template that a GGUF is used with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from attrs import frozen

from inhouse.errors import RecipeError
from inhouse.protocols import Engine
from inhouse.values import Json, Message
from inhouse_bundle.gguf_file import read_gguf
from inhouse_bundle.ollama import OllamaTemplate, ollama_template

Ids = list[int] | None
"""Of a chat; None where the template refuses it."""


class _TakesTools(Protocol):
    """Of an engine with the feature ``tools``."""

    def render(self, messages: Sequence[Message], *, tools: Sequence[Json]) -> str: ...


@frozen
class Said:
    """What is found of templates: ``wrong``, a line for each difference, and ``told``, what was compared. ``chats``:
    how many beside those that every way is compared with."""

    wrong: list[str]
    told: list[str]
    chats: int = 0


def tokens(engine: Engine, chat: Sequence[Message], tools: Sequence[Json] = ()) -> Ids:
    """Through the engine's own template; ``tools`` for engines that take them."""
    try:
        text = cast(_TakesTools, engine).render(chat, tools=tools) if tools else engine.render(chat)
        return engine.tokenize(text)
    except RecipeError:
        return None


def differences(
    chats: Sequence[Sequence[Message]], truth: Sequence[Ids], others: Sequence[Ids], name: str
) -> list[str]:
    """A line for each chat that ``others`` has other ids of than transformers."""
    found = []
    for chat, wanted, other in zip(chats, truth, others, strict=True):
        if wanted != other:
            said = chat[-1].content[:40]
            place = next((i for i, (a, b) in enumerate(zip(wanted or [], other or [], strict=False)) if a != b), None)
            at = "length" if place is None else f"token {place}"
            found.append(f"{name} differs from transformers at {at} of the chat that ends with {said!r}")
    return found


def with_tools(
    engine: Engine,
    chats: Sequence[Sequence[Message]],
    tools: Sequence[Json],
    plain: Sequence[Ids],
    truth: Sequence[Ids],
) -> Said:
    """``truth``: transformers' ids with the tools, ``plain`` without; empty where its engine takes no tools."""
    if not truth or "tools" not in engine.features:
        return Said([], ["a runtime takes no tools for its template"])
    if plain == truth:
        return Said([], ["the template takes no tools"])
    found = differences(chats, truth, [tokens(engine, chat, tools) for chat in chats], "the GGUF's template with tools")
    count = sum(ids is not None for ids in truth)
    return Said(found, [f"{count} of them with tools"], count)


def through_ollama(engine: Engine, model: Path, chats: Sequence[Sequence[Message]], truth: Sequence[Ids]) -> Said:
    """The ids of what Ollama makes with the Modelfile's template, which is rendered as Go would, against ``truth``.

    Chats that the model's template refuses, or that the template for Ollama is known not to make, are left out.
    """
    chat = read_gguf(model).chat
    found = ollama_template(chat)
    if not found.text:
        return Said([], [f"the Modelfile has no template, since {found.why}"])
    bos = engine.tokenize(chat.bos) if chat.adds_bos else []
    compared, wanted, other = [], [], []
    for turns, ids in zip(chats, truth, strict=True):
        text = found.prompt([(turn.role, turn.content) for turn in turns])
        if ids is not None and text is not None:
            compared.append(turns)
            wanted.append(ids if ids[: len(bos)] == bos else bos + ids)
            other.append(bos + engine.tokenize(text))
    return Said(differences(compared, wanted, other, "the Modelfile's template"), _told(found, len(compared)))


def _told(found: OllamaTemplate, compared: int) -> list[str]:
    limits = [each[0].lower() + each[1:].rstrip(".") for each in found.limits]
    return [f"{compared} of them through the Modelfile's template", *limits]
