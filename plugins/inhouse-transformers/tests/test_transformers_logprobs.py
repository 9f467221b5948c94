"""Log-probabilities against the whole forward pass, whatever the batch and the piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from inhouse.errors import RecipeError
from inhouse_transformers import Options, score
from inhouse_transformers.engine import TransformersRuntime
from inhouse_transformers.forward import Forward

SEQUENCES = [
    [1, 5, 9, 33, 60, 7],
    [1, 5, 9, 33, 61],
    [1, 5, 9, 34, 60, 7, 8, 9, 10, 11, 12, 13, 200, 300, 41, 42],
    [1, 5, 9],
    [1],
    [],
    [9, 8, 7],
]


@pytest.mark.parametrize("kind", ["llama", "sliding"])
@pytest.mark.parametrize(("budget", "piece"), [(1, 32), (128 << 20, 32), (128 << 20, 5)])
def test_logprobs(
    kind: str, budget: int, piece: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(kind)
    monkeypatch.setattr(score, "LOGITS", budget)
    monkeypatch.setattr(score, "PIECE", piece)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with TransformersRuntime(Options(dtype="float32", device="cpu", max_batch=3)).open(folder, context=64) as engine:
        got = engine.logprobs(SEQUENCES)
    for ids, values in zip(SEQUENCES, got, strict=True):
        assert len(values) == max(0, len(ids) - 1)
        if values:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            expected = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(values), expected, atol=2e-4, rtol=1e-4)


def test_rows_that_have_ended_are_not_computed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "PIECE", 2)
    computed: list[int] = []
    whole = Forward.__call__
    monkeypatch.setattr(Forward, "__call__", lambda *a, **k: computed.append(a[1].numel()) or whole(*a, **k))
    with TransformersRuntime(Options(dtype="float32", device="cpu")).open(llama, context=64) as engine:
        engine.logprobs([[1, 5], [2] * 40, [3, 6, 7]])
    assert sum(computed) == 3 * 2 + 37  # not 3 * 39


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_distributions(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = request.getfixturevalue(kind)
    monkeypatch.setattr(score, "PIECE", 5)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sequences = [ids for ids in SEQUENCES if ids]
    with TransformersRuntime(Options(dtype="float32", device="cpu")).open(folder, context=64) as engine:
        for ids, logits in zip(sequences, engine.distributions(sequences), strict=True):
            with torch.no_grad():
                wanted = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            torch.testing.assert_close(torch.from_numpy(logits), wanted, atol=2e-4, rtol=1e-4)
        with pytest.raises(RecipeError, match="exceeds the context of 64"):
            next(engine.distributions([[1] * 65]))
