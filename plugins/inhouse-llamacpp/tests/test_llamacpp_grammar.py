"""GBNF grammars are obeyed by a model that knows nothing of them."""

from __future__ import annotations

import json
import re

import pytest

from inhouse.errors import RecipeError
from inhouse.values import Request
from inhouse_llamacpp.engine import LlamaCppEngine

ACTION = r"""
root ::= "Thought: " [a-z ]{1,20} "\nAction: " call "\n"
call ::= "orders {\"order_id\": \"" [0-9]{5} "\"}" | "calculator {\"expression\": \"" [0-9+*/. -]{1,12} "\"}"
"""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_answer_fits_the_grammar(engine: LlamaCppEngine, temperature: float) -> None:
    requests = [
        Request(prompt=f"Task {i}:", grammar=ACTION, max_tokens=120, temperature=temperature, seed=i) for i in range(6)
    ]
    for found in engine.generate(requests):
        assert found.finish == "stop"
        match = re.fullmatch(r"Thought: [a-z ]{1,20}\nAction: (orders|calculator) (\{.*\})\n", found.text)
        assert match, found.text
        assert len(json.loads(match[2])) == 1


def test_unicode_in_a_grammar(engine: LlamaCppEngine) -> None:
    found = engine.generate([Request(prompt="x", grammar='root ::= "größe " [あ-ん]{3} " 🙂"', max_tokens=60)])[0]
    assert re.fullmatch("größe [あ-ん]{3} 🙂", found.text)


def test_greedy_takes_the_best_that_the_grammar_allows(engine: LlamaCppEngine) -> None:
    ids = engine.tokenize("Say it")
    letters = {each: engine.tokenize(each)[0] for each in "abcdefghijklmnopqrstuvwxyz"}
    values = engine.logprobs([[*ids, token] for token in letters.values()])
    best = max(zip(letters, values, strict=True), key=lambda pair: pair[1][-1])[0]
    found = engine.generate([Request(prompt="Say it", grammar="root ::= [a-z]", max_tokens=9)])[0]
    assert found.text == best


@pytest.mark.parametrize("grammar", ["root ::= (", "start ::= 'a'", "root ::= missing", "root ::= root"])
def test_broken_grammars_are_the_callers_mistake(engine: LlamaCppEngine, grammar: str) -> None:
    with pytest.raises(RecipeError, match="grammar"):
        engine.generate([Request(prompt="x", grammar=grammar)])
    assert engine.generate([Request(prompt="x", max_tokens=3)])[0].completion_tokens == 3
