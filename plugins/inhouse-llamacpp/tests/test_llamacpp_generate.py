"""Answers: batches, shared prompts, stop strings, streams, temperature."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attrs import evolve
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse.errors import RecipeError
from inhouse.values import Completion, Message, Request
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.runtime import LlamaCppRuntime

SYSTEM = Message("system", "You answer for the shop. " * 12)


def _ask(question: str, tokens: int = 24, **more: object) -> Request:
    return Request(messages=(SYSTEM, Message("user", question)), max_tokens=tokens, **more)  # type: ignore[arg-type]


def _texts(completions: list[Completion]) -> list[tuple[str, str, int]]:
    return [(each.text, each.finish, each.completion_tokens) for each in completions]


QUESTIONS = [f"Where is order {number}?" + " please" * (number % 5) for number in range(10)]


def _beyond_rounding(hf: Path, requests: list[Request]) -> Iterator[Request]:
    """Each request up to where two tokens are nearly as likely: there the size of a batch may decide, on some CPUs."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32), AutoTokenizer.from_pretrained(hf)
    for request in requests:
        chat = [{"role": each.role, "content": each.content} for each in request.messages]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(
            **ids, max_new_tokens=request.max_tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        best = [each[0].topk(2).values for each in made.logits]
        ties = [place for place, (first, second) in enumerate(best) if first - second < 0.05]
        yield evolve(request, max_tokens=min([request.max_tokens, *ties]))


def test_a_batch_answers_as_one_by_one(engine: LlamaCppEngine, gguf: Path, hf: Path) -> None:
    asked = [_ask(each, tokens=8 + 3 * i) for i, each in enumerate(QUESTIONS)]
    requests = [each for each in _beyond_rounding(hf, asked) if each.max_tokens]
    assert sum(each.max_tokens for each in requests) > 60
    together = _texts(engine.generate(requests))
    with LlamaCppRuntime(LlamaCppOptions(slots=1)).open(gguf, context=384, threads=1) as other:
        assert _texts([other.generate([each])[0] for each in requests]) == together
    assert len({text for text, _, _ in together}) > 5


def test_greedy_answers_are_those_of_transformers(engine: LlamaCppEngine, hf: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(hf)
    for question in QUESTIONS[:3]:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=16, do_sample=False)[0][ids["input_ids"].shape[1] :]
        found = engine.generate([Request(messages=(Message("user", question),), max_tokens=16)])[0]
        wanted = tokenizer.decode(made, skip_special_tokens=True)
        assert found.text.rstrip("\ufffd") == wanted.rstrip("\ufffd")  # a cut character is shown or left out
        assert found.prompt_tokens == ids["input_ids"].shape[1]


def test_a_common_beginning_is_decoded_once(engine: LlamaCppEngine) -> None:
    alone = engine.generate([_ask(QUESTIONS[0], tokens=1)])[0].prompt_tokens
    before = engine.statistics()["decoded_tokens"]
    engine.generate([_ask(each, tokens=1) for each in QUESTIONS])
    spent = engine.statistics()["decoded_tokens"] - before
    assert spent < 10 * 40 < 10 * alone


def test_the_next_turn_goes_on_where_the_last_ended(engine: LlamaCppEngine, gguf: Path) -> None:
    first = engine.generate([Request(prompt="Order 48213 was", max_tokens=30)])[0]
    prompt = "Order 48213 was" + first.text + " And then?"
    before = engine.statistics()["decoded_tokens"]
    second = engine.generate([Request(prompt=prompt, max_tokens=10)])[0]
    assert engine.statistics()["decoded_tokens"] - before < second.prompt_tokens
    with LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=384, threads=1) as fresh:
        assert fresh.generate([Request(prompt=prompt, max_tokens=10)])[0].text == second.text


def test_conversations_in_lock_step_keep_their_slots(engine: LlamaCppEngine) -> None:
    prompts = [f"{SYSTEM.content} {each}" for each in QUESTIONS[:4]]
    for _ in range(3):
        answers = engine.generate([Request(prompt=each, max_tokens=6) for each in prompts])
        prompts = [p + a.text + " more" for p, a in zip(prompts, answers, strict=True)]
    before = engine.statistics()["decoded_tokens"]
    last = engine.generate([Request(prompt=each, max_tokens=6) for each in reversed(prompts)])
    assert engine.statistics()["decoded_tokens"] - before < sum(each.prompt_tokens for each in last) / 2


def test_a_small_cache_only_makes_requests_wait(gguf: Path, engine: LlamaCppEngine) -> None:
    requests = [_ask(each, tokens=40) for each in QUESTIONS]
    wanted = _texts(engine.generate(requests))
    with LlamaCppRuntime(LlamaCppOptions(slots=8, cache_memory=0)).open(gguf, context=384, threads=1) as small:
        assert _texts(small.generate(requests)) == wanted
        assert small.statistics()["cells"] == 512


def test_stop_strings_end_the_text(engine: LlamaCppEngine) -> None:
    whole = engine.generate([_ask("Where?", tokens=40)])[0].text
    stop = whole[10:13]
    found = engine.generate([_ask("Where?", tokens=40, stop=(stop, "never"))])[0]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish == "stop"


def test_a_stream_gives_the_same_text_in_pieces(engine: LlamaCppEngine) -> None:
    request = _ask("Stream it", tokens=40)
    whole = engine.generate([request])[0].text
    pieces = list(engine.stream(request))
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    stop = whole[12:14]
    assert "".join(engine.stream(evolve(request, stop=(stop,)))) == whole[: whole.index(stop)]


def test_a_closed_stream_stops_the_engine(engine: LlamaCppEngine) -> None:
    pieces = engine.stream(_ask("Stream it", tokens=300))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    spent = engine.statistics()["decoded_tokens"]
    assert engine.generate([_ask("Still there?", tokens=5)])[0].completion_tokens == 5
    assert spent < 300


def test_temperature_draws_by_seed(engine: LlamaCppEngine) -> None:
    def draw(seed: int) -> str:
        return engine.generate([_ask("Draw", tokens=12, temperature=1.5, seed=seed)])[0].text

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(5)}) > 2


def test_the_length_ends_at_the_context(engine: LlamaCppEngine) -> None:
    found = engine.generate([Request(prompt="a b c d", max_tokens=10_000)])[0]
    assert found.prompt_tokens + found.completion_tokens <= 384


def test_threads_may_ask_at_the_same_time(engine: LlamaCppEngine, hf: Path) -> None:
    """Which of them share a batch is chance."""
    asked = [each for each in _beyond_rounding(hf, [_ask(each) for each in QUESTIONS]) if each.max_tokens]
    assert len(asked) > 5
    wanted = [engine.generate([each])[0].text for each in asked]
    found: dict[int, str] = {}

    def ask(i: int) -> None:
        found[i] = engine.generate([asked[i]])[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [found[i] for i in range(len(asked))] == wanted


def test_requests_that_cannot_be_answered(engine: LlamaCppEngine, gguf: Path) -> None:
    with pytest.raises(RecipeError, match="context only 384"):
        engine.generate([_ask("ok"), _ask("word " * 600)])
    with pytest.raises(RecipeError, match="longer than the model's 512"):
        LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=4096)
    assert engine.generate([]) == []
    assert engine.generate([_ask("half \ud83d pair")])[0].completion_tokens > 0
    assert engine.generate([_ask("fine")])[0].completion_tokens > 0
