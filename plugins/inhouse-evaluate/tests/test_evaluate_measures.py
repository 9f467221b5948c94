"""Intervals, held-out loss, speed, and reading tasks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse.errors import DataError
from inhouse.values import Message
from inhouse_evaluate import speed as speed_module
from inhouse_evaluate.intervals import mcnemar, paired, wilson
from inhouse_evaluate.loss import heldout_loss, label_spans
from inhouse_evaluate.speed import TOKENS, measure_speed
from inhouse_evaluate.tasks import load_dialogues, load_tasks


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I (method 3): 81/263, 15/148, 0/20, 1/29
    for solved, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
                                     (1, 29, 0.0061, 0.1718)]:  # fmt: skip
        assert wilson(solved, total, 0.95) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_holds_the_share(solved: int, more: int, confidence: float) -> None:
    low, high = wilson(solved, solved + more, confidence)
    share = solved / (solved + more) if solved + more else 0.5
    assert 0 <= low <= share <= high <= 1


def test_mcnemar_is_exact() -> None:
    assert mcnemar(1, 9) == 2 * (1 + 10) / 1024
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert paired([True, True, False], [True, False, False]) == {
        "both": 1, "only_first": 1, "only_second": 0, "neither": 1, "p": 1.0,
    }  # fmt: skip


DIALOGUE = [
    Message("system", "Be kind."),
    Message("user", "Where is it?"),
    Message("assistant", "Thought: Look.\nAction: orders {}"),
    Message("user", "Observation: here"),
    Message("assistant", "Thought: Done.\nFinal: Here."),
]


def test_labels_are_what_the_assistant_says_and_its_end_of_turn(kit: SimpleNamespace) -> None:
    engine = kit.Engine(kit.able)
    ids, spans = label_spans(engine, DIALOGUE)
    assert ["".join(engine.words[token] for token in ids[start:end]) for start, end in spans] == [
        "Thought: Look.\nAction: orders {}<|im_end|>",
        "Thought: Done.\nFinal: Here.<|im_end|>",
    ]


def test_the_loss_is_the_mean_over_label_tokens(kit: SimpleNamespace) -> None:
    engine = kit.Engine(kit.able)
    ids, spans = label_spans(engine, DIALOGUE)
    tokens = [token for start, end in spans for token in ids[start:end]]  # its loss is the token's number
    long = [Message("user", "x"), Message("assistant", "word " * 600)]
    loss = heldout_loss(engine, [DIALOGUE, DIALOGUE, long, DIALOGUE[:2]])
    assert loss is not None
    assert math.isclose(loss.nats, sum(tokens) / len(tokens))
    assert (loss.tokens, loss.dialogues, loss.skipped) == (2 * len(tokens), 2, 2)
    assert heldout_loss(engine, [DIALOGUE[:2]]) is None


def test_speed(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = kit.Engine(kit.able)
    speed = measure_speed(engine)
    assert engine.batches == [1, 1, 1, 8]  # three runs, since none is slow
    assert speed.single is not None
    assert speed.batched is not None
    assert {request.max_tokens for request in engine.requests} == {TOKENS}
    engine.batch = 5
    assert (measure_speed(engine).batch, engine.batches[-1]) == (5, 5)
    monkeypatch.setattr(speed_module, "ENOUGH", -1.0)
    slow = kit.Engine(kit.able)
    assert measure_speed(slow).single is not None
    assert slow.batches == [1, 8]
    silent = measure_speed(kit.Engine(kit.unable))
    assert (silent.single, silent.batched) == (None, None)


GOOD = {"id": "a", "kind": "order", "question": "?"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        (json.dumps({"id": "a", "kind": "order"}), "'question'"),
        (json.dumps(GOOD | {"calls": ["orders"]}), "'calls'"),
        (json.dumps(GOOD | {"calls": [{"arguments": {}}]}), "'tool'"),
        (json.dumps(GOOD | {"calls": [{"tool": "x", "argument": {}}]}), "no key 'argument'"),
        (json.dumps(GOOD | {"calls": [{"tool": "x", "value": "NaN"}]}), "'value'"),
        (json.dumps(GOOD | {"calls": [{"tool": "x", "arguments": [1]}]}), "'arguments'"),
        (json.dumps(GOOD | {"answer": ["shipped"]}), "'answer'"),
        (json.dumps(GOOD | {"answer": [[]]}), "'answer'"),
        (json.dumps(GOOD | {"cites": [1]}), "'cites'"),
        (json.dumps(GOOD | {"hand_over": "yes"}), "'hand_over'"),
        (json.dumps(GOOD | {"id": "first"}), "twice"),
    ],
)
def test_a_wrong_task_is_named_by_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(GOOD | {"id": "first"}) + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=why) as raised:
        load_tasks(path)
    assert raised.value.where == f"{path}:3"


def test_files_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_tasks(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no tasks"):
        load_tasks(tmp_path / "empty.jsonl")
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "tool", "content": "x"}]}')
    assert load_dialogues(tmp_path / "chat.jsonl", 0) == []
    with pytest.raises(DataError, match="unknown role 'tool'"):
        load_dialogues(tmp_path / "chat.jsonl", 1)
