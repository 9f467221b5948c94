"""Drives dialogues: one against an engine, or many in lock step so that the engine decodes them together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve

from inhouse.errors import RecipeError
from inhouse.protocols import Agent, Dialogue, Engine
from inhouse.values import Answer, Completion, Message, Request


def answer(
    agent: Agent,
    engine: Engine,
    question: str,
    *,
    history: Sequence[Message] = (),
    examples: Sequence[Message] = (),
) -> Answer:
    """One answer. ``seconds`` of the result is wall time."""
    ((_, result),) = answer_all(agent, engine, [question], history=history, examples=examples)
    return result


def answer_all(
    agent: Agent,
    engine: Engine,
    questions: Sequence[str],
    *,
    history: Sequence[Message] = (),
    examples: Sequence[Message] = (),
    batch: int | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Yields (index, answer) as each is done, up to ``batch`` (else ``engine.batch``) dialogues at a time.

    A dialogue that ends makes room for the next question, so the engine's batches stay full.
    """
    waiting = list(enumerate(questions))[::-1]
    dialogues: dict[int, tuple[Dialogue, float]] = {}
    replies: list[tuple[int, Completion | RecipeError]] = []
    grammar, most = "grammar" in engine.features, batch or engine.batch
    while waiting or replies:
        requests: dict[int, Request] = {}
        while replies or (waiting and len(requests) < most):
            reply: Completion | RecipeError | None = None
            if replies:
                index, reply = replies.pop(0)
            else:
                index, question = waiting.pop()
                started = agent.start(question, history=history, examples=examples, grammar=grammar)
                dialogues[index] = (started, time.perf_counter())
            dialogue, since = dialogues[index]
            try:
                requests[index] = _advance(dialogue, reply)
            except StopIteration as stop:
                yield index, evolve(stop.value, seconds=time.perf_counter() - since)
                del dialogues[index]
        if requests:
            replies = _generate(engine, requests)


def _advance(dialogue: Dialogue, reply: Completion | RecipeError | None) -> Request:
    """What the dialogue wants next; one that outgrew the context is told so, and may give up or raise."""
    if isinstance(reply, RecipeError):
        return dialogue.throw(reply)
    return dialogue.send(reply) if reply else next(dialogue)


def _generate(engine: Engine, requests: Mapping[int, Request]) -> list[tuple[int, Completion | RecipeError]]:
    """All completions; when the batch is refused, each alone, so that one prompt does not end the others."""
    try:
        return list(zip(requests, engine.generate(list(requests.values())), strict=True))
    except RecipeError as error:
        if len(requests) == 1:
            return [(index, error) for index in requests]
    return [each for index, request in requests.items() for each in _generate(engine, {index: request})]
