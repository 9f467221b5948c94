"""Driving dialogues: batches, order, and prompts that outgrow the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from inhouse.errors import RecipeError
from inhouse.protocols import Dialogue
from inhouse.values import Answer, Completion, Request
from inhouse_answer.dialogues import answer, answer_all


class Echo:
    """Asks for one completion per word of the question; gives up when told that it outgrew the context."""

    def start(self, question: str, **_: Any) -> Dialogue:
        said = []
        for word in question.split():
            try:
                completion = yield Request(prompt=word)
            except RecipeError as error:
                return Answer(str(error), "gave_up")
            said.append(completion.text)
        return Answer(" ".join(said), "answered")


class Shouting:
    """An engine that answers in capitals and refuses the prompt ``long``."""

    batch = 4
    context = 8
    features: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.batches.append(len(requests))
        if any(request.prompt == "long" for request in requests):
            raise RecipeError("the prompt is longer than the context")
        return [Completion(str(request.prompt).upper(), "stop", 1, 1, 0.0) for request in requests]


def run(questions: Sequence[str], batch: int | None = None) -> tuple[Mapping[int, Answer], list[int]]:
    engine = Shouting()
    found: Any = dict(answer_all(Echo(), engine, questions, batch=batch))  # type: ignore[arg-type]
    return found, engine.batches


def test_answers_belong_to_their_questions() -> None:
    questions = ["a b c", "d", "", "e f"]
    found, batches = run(questions)
    assert [found[i].text for i in range(4)] == [question.upper() for question in questions]
    assert max(batches) == 3


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_stay_full_and_within_their_size(batch: int) -> None:
    found, batches = run(["a b"] * 7, batch)
    assert len(found) == 7
    assert max(batches) == batch
    assert sum(batches) == 14


def test_without_a_size_batches_are_what_the_engine_decodes_together() -> None:
    assert max(run(["a b"] * 7)[1]) == Shouting.batch


def test_one_prompt_that_outgrew_the_context_does_not_end_the_others() -> None:
    found, _ = run(["a b", "a long", "c d"])
    assert [found[i].outcome for i in range(3)] == ["answered", "gave_up", "answered"]


def test_one_answer() -> None:
    assert answer(Echo(), Shouting(), "hello there").text == "HELLO THERE"  # type: ignore[arg-type]
