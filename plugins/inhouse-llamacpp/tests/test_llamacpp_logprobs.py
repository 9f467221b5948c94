"""Scores equal those of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inhouse.errors import EngineError, RecipeError
from inhouse.values import Request
from inhouse_gguf.convert import convert
from inhouse_llamacpp import CacheType, LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.runtime import LlamaCppRuntime
from support.tiny_llama import make_model


def _reference(hf: Path, ids: list[int]) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    return [float(logs[i, ids[i + 1]]) for i in range(len(ids) - 1)]


def test_log_probabilities_equal_those_of_transformers(engine: LlamaCppEngine, hf: Path) -> None:
    random = torch.Generator().manual_seed(3)
    base = torch.randint(3, 500, (200,), generator=random).tolist()
    sequences = [base, [*base[:90], 7, 8, 9], base[:90], base[:1], [], [5, 6], base]
    engine.generate([Request(prompt="something in the cache", max_tokens=40)])
    found = engine.logprobs(sequences)
    for ids, values in zip(sequences, found, strict=True):
        assert len(values) == max(0, len(ids) - 1)
        if values:
            assert np.abs(np.array(values) - _reference(hf, ids)).max() < 0.03


def test_scoring_leaves_generation_alone(engine: LlamaCppEngine) -> None:
    request = Request(prompt="Order 48213", max_tokens=20)
    before = engine.generate([request])[0].text
    engine.logprobs([list(range(3, 380))])
    assert engine.generate([request])[0].text == before


def test_sequences_that_cannot_be_scored(engine: LlamaCppEngine) -> None:
    with pytest.raises(RecipeError, match="context only 384"):
        engine.logprobs([[5] * 400])
    with pytest.raises(RecipeError, match="0 to 511"):
        engine.logprobs([[5, 100_000]])


def test_distributions_are_those_of_transformers(engine: LlamaCppEngine, hf: Path) -> None:
    """One sequence after the other, with something in the cache; longer than one batch of outputs."""
    random = torch.Generator().manual_seed(4)
    sequences = [torch.randint(3, 500, (count,), generator=random).tolist() for count in (200, 2, 1, 37)]
    engine.generate([Request(prompt="something in the cache", max_tokens=40)])
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    for ids, logits in zip(sequences, engine.distributions(sequences), strict=True):
        assert logits.shape == (len(ids) - 1, 512)
        with torch.no_grad():
            wanted = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], dim=-1)
        found = torch.log_softmax(torch.from_numpy(logits), dim=-1)
        assert torch.allclose(found, wanted, atol=0.05)
    with pytest.raises(RecipeError, match="context only 384"):
        next(engine.distributions([[5] * 400]))


@pytest.mark.parametrize(("kind", "most"), [("q8_0", 0.1), ("q4_0", 1.0)])
def test_a_rounded_cache_takes_less_and_gives_about_the_same(
    gguf: Path, hf: Path, kind: CacheType, most: float
) -> None:
    ids = torch.randint(3, 500, (200,), generator=torch.Generator().manual_seed(3)).tolist()
    cells = []
    for cache_type in ("f16", kind):
        options = LlamaCppOptions(slots=8, cache_memory=1 << 20, cache_type=cache_type)  # type: ignore[arg-type]
        with LlamaCppRuntime(options).open(gguf, context=384, threads=1) as engine:
            (found,) = engine.logprobs([ids])
            engine.generate([Request(prompt=f"{n}", max_tokens=380) for n in range(8)])
            cells.append(engine.statistics()["cells"])
        apart = np.abs(np.array(found) - _reference(hf, ids)).mean()
        assert 0 < apart < most
    assert cells[1] > 1.5 * cells[0]


def test_a_cache_that_the_model_does_not_fit_is_told(tmp_path: Path) -> None:
    """Blocks of 32 values do not divide heads of 16."""
    convert(make_model(tmp_path / "hf", width=64), tmp_path / "model.gguf", "F16", lambda *_: None)
    with pytest.raises(EngineError, match="cannot make a context") as told:
        LlamaCppRuntime(LlamaCppOptions(cache_type="q8_0")).open(tmp_path, context=384, threads=1)
    assert told.value.hint == 'cache_type = "f16"'
