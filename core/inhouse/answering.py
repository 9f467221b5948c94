"""Drives dialogues: one against an engine, or many in lock step so that the engine decodes them together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from attrs import evolve

from inhouse.protocols import Agent, Answer, Dialogue, Engine, Message, Request


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
    batch: int = 16,
) -> Iterator[tuple[int, Answer]]:
    """Yields (index, answer) as each is done, up to ``batch`` dialogues at a time.

    A dialogue that ends makes room for the next question, so the engine's batches stay full.
    """
    waiting = list(enumerate(questions))[::-1]
    open_: dict[int, tuple[Dialogue, Request, float]] = {}
    grammar = "grammar" in engine.features
    while waiting or open_:
        while waiting and len(open_) < batch:
            index, question = waiting.pop()
            dialogue = agent.start(question, history=history, examples=examples, grammar=grammar)
            open_[index] = (dialogue, next(dialogue), time.perf_counter())
        for index, completion in zip(
            open_, engine.generate([request for _, request, _ in open_.values()]), strict=True
        ):
            dialogue, _, started = open_[index]
            try:
                open_[index] = (dialogue, dialogue.send(completion), started)
            except StopIteration as stop:
                yield index, evolve(stop.value, seconds=time.perf_counter() - started)
                open_[index] = (dialogue, Request(), -1.0)
        open_ = {index: each for index, each in open_.items() if each[2] >= 0}
