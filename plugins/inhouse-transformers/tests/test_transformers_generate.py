"""Batched decoding gives what decoding one by one gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attrs import evolve
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse.errors import EngineError, RecipeError
from inhouse.values import Message, Request
from inhouse_transformers import Options
from inhouse_transformers.cache import Kept, Known
from inhouse_transformers.engine import TransformersEngine, TransformersRuntime
from inhouse_transformers.forward import Forward

SYSTEM = "the shop ships orders in May, the return is free of charge, order by order, " + "é" * 30
"""More than 64 tokens, from which on rows share the states of what they begin with."""
QUESTIONS = [
    "where is it",
    "the return of the order that was shipped on the third",
    "May?",
    "on the third of May the order was free",
    "é – ü ☃",
    "is the return free",
    "w",
]


def chats(stop: tuple[str, ...] = (), **more: object) -> list[Request]:
    return [
        Request((Message("system", SYSTEM), Message("user", question)), max_tokens=24, stop=stop, **more)  # type: ignore[arg-type]
        for question in QUESTIONS
    ]


@pytest.fixture(params=["llama", "sliding"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def engine(folder: Path) -> Iterator[TransformersEngine]:
    with TransformersRuntime(Options(dtype="float32", device="cpu", max_batch=3)).open(folder, context=200) as opened:
        yield opened


def plain_greedy(folder: Path, prompt: str, tokens: int) -> str:
    """transformers' own loop without a cache: the reference."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    made = ids
    for _ in range(tokens):
        with torch.no_grad():
            made = torch.cat([made, model(input_ids=made, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        if made[0, -1] == 2:
            break
    return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def test_equals_greedy_without_cache(folder: Path, engine: TransformersEngine) -> None:
    got = engine.generate(chats())
    expected = [plain_greedy(folder, engine.render(request.messages), 24) for request in chats()]
    assert [answer.text for answer in got] == expected
    assert len(set(expected)) > 3  # the model answers differently, else the test shows nothing


def test_finished_rows_that_wait_in_the_batch_change_nothing(folder: Path) -> None:
    """With seven rows the first one that ends stays, padded, until a quarter has ended."""
    limits = (3, 24, 24, 6, 24, 9, 24)
    asked = [evolve(request, max_tokens=limit) for request, limit in zip(chats(), limits, strict=True)]
    with TransformersRuntime(Options(dtype="float32", device="cpu", max_batch=8)).open(folder, context=200) as engine:
        together = engine.generate(asked)
        expected = [plain_greedy(folder, engine.render(each.messages), each.max_tokens) for each in asked]
    assert [answer.text for answer in together] == expected


def test_equals_one_by_one_whatever_was_kept(engine: TransformersEngine) -> None:
    together = engine.generate(chats())
    single = [engine.generate([request])[0] for request in reversed(chats())][::-1]
    again = engine.generate(chats()[::-1])[::-1]
    for answers in (single, again):
        assert [(a.text, a.finish, a.completion_tokens) for a in answers] == [
            (a.text, a.finish, a.completion_tokens) for a in together
        ]


def test_next_turn_uses_what_was_kept(engine: TransformersEngine) -> None:
    first = chats()[0]
    answer = engine.generate([first])[0]
    more = Request(
        (*first.messages, Message("assistant", answer.text), Message("user", "and the return")), max_tokens=9
    )
    kept = engine.generate([more])[0].text
    with TransformersRuntime(Options(dtype="float32", device="cpu")).open(
        Path(engine._tokenizer.name_or_path), context=200
    ) as fresh:
        assert fresh.generate([more])[0].text == kept


def test_next_turns_of_a_batch_compute_only_what_is_new(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TransformersRuntime(Options(dtype="float32", device="cpu", max_batch=3)).open(llama, context=200) as engine:
        first = chats()[:3]
        answers = engine.generate(first)
        turns = [Message("user", "and the return")]
        more = [
            Request((*asked.messages, Message("assistant", answer.text), *turns), max_tokens=9)
            for asked, answer in zip(first, answers, strict=True)
        ]
        columns: list[int] = []
        whole = Forward.prefill
        monkeypatch.setattr(Forward, "prefill", lambda *a, **k: columns.append(a[1].shape[1]) or whole(*a, **k))
        together = [answer.text for answer in engine.generate(more)]
        lengths = [[len(engine.tokenize(engine.render(each.messages))) for each in asked] for asked in (first, more)]
        assert sum(columns) <= max(now - before for before, now in zip(*lengths, strict=True))
    with TransformersRuntime(Options(dtype="float32", device="cpu")).open(llama, context=200) as fresh:
        assert [fresh.generate([asked])[0].text for asked in more] == together


def test_kept_states_are_bounded_and_the_last_used_stay() -> None:
    kept = Kept(limit=2 * 4 * 10 * 2)  # two sequences of ten positions

    def states() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.zeros(1, 1, 10, 1), torch.zeros(1, 1, 10, 1))]

    for start in (0, 100):
        kept.add(Known(list(range(start, start + 10)), states()))
    assert kept.best([0, 1, 2])[0] == 3
    kept.add(Known(list(range(200, 210)), states()))
    assert [kept.best([start, start + 1])[0] for start in (0, 100, 200)] == [2, 0, 2]
    kept.add(Known(list(range(200, 211)), states()))  # goes on from one that is known, which is dropped
    assert [kept.best([start, start + 1])[0] for start in (0, 200)] == [2, 2]


def test_rows_hold_the_states_of_what_they_share_once(llama: Path) -> None:
    with TransformersRuntime(Options(dtype="float32", device="cpu")).open(llama, context=200) as engine:
        engine.generate(chats())
        parents = [known.parent for known in engine._kept._known]
        assert parents[0] is not None
        assert all(parent is parents[0] for parent in parents)
        shared = len(parents[0].ids)
        for known in engine._kept._known:  # questions and answers only
            assert known.layers[0][0].shape[2] == len(known.ids) - shared


def test_no_common_prefix(folder: Path, engine: TransformersEngine) -> None:
    prompts = ["the", "order was shipped", "May on the third of"]
    got = engine.generate([Request(prompt=prompt, max_tokens=12) for prompt in prompts])
    assert [answer.text for answer in got] == [plain_greedy(folder, prompt, 12) for prompt in prompts]


def test_stream_is_generate(engine: TransformersEngine) -> None:
    for request in chats():
        assert "".join(engine.stream(request)) == engine.generate([request])[0].text


def test_stop_string_ends_and_is_cut(engine: TransformersEngine) -> None:
    whole = [answer.text for answer in engine.generate(chats())]
    text = max(whole, key=len)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    for before, after in zip(whole, engine.generate(chats(stop=(stop,))), strict=True):
        assert after.text == before.split(stop)[0]
        if stop in before:
            assert after.finish == "stop"


def test_temperature_is_seeded_per_request(engine: TransformersEngine) -> None:
    hot = chats(temperature=1.0, seed=3)
    assert [a.text for a in engine.generate(hot)] == [engine.generate([request])[0].text for request in hot]
    other = engine.generate(chats(temperature=1.0, seed=4))
    assert [a.text for a in engine.generate(hot)] != [a.text for a in other]


def test_limits(engine: TransformersEngine) -> None:
    answer = engine.generate([Request(prompt="the order " * 19, max_tokens=500)])[0]
    assert answer.finish == "stop" or answer.prompt_tokens + answer.completion_tokens == 200
    with pytest.raises(RecipeError, match="does not fit the context of 200"):
        engine.generate([Request(prompt="the order " * 200)])
    with pytest.raises(RecipeError, match="grammar"):
        engine.generate([Request(prompt="the", grammar='root ::= "x"')])
    with pytest.raises(RecipeError, match="at least 1"):
        engine.generate([Request(prompt="the", max_tokens=0)])
    assert engine.generate([]) == []


def test_closed_engine_says_so(llama: Path) -> None:
    engine = TransformersRuntime(Options(device="cpu")).open(llama, context=64)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([Request(prompt="the")])
