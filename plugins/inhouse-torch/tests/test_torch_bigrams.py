"""First weights from counted pairs: the model predicts as the bigram model that they were counted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inhouse_torch import bigrams
from inhouse_torch.bigrams import Pairs, begin_from, count_pairs, factors, weights
from inhouse_torch.shape import by_depth, fresh_model
from inhouse_torch.shards import Shards, ShardWriter

VOCABULARY = 200


def text(length: int) -> list[int]:
    """Ids in ten classes that follow each other, mostly in order; the last ten of the vocabulary never come."""
    torch.manual_seed(0)
    classes = (torch.rand(length) < 0.9).cumsum(0) % 10
    ids: list[int] = (classes * 19 + torch.randint(0, 19, (length,))).tolist()
    return ids


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    with ShardWriter(tmp_path / "shards", VOCABULARY, shard_tokens=700) as writer:
        writer.write(text(3000))
    return Shards(tmp_path / "shards")


def logits(model: object, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids.unsqueeze(0)).logits[0]  # type: ignore[operator]
    return found


@pytest.mark.parametrize(("chunk", "most"), [(1 << 22, 1 << 26), (100, 1 << 26), (100, 1000), (2999, 1 << 26)])
def test_pairs_are_counted_across_files_and_chunks(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, chunk: int, most: int
) -> None:
    monkeypatch.setattr(bigrams, "_CHUNK", chunk)
    monkeypatch.setattr(bigrams, "MOST_TOKENS", most)
    found = count_pairs(shards, VOCABULARY)
    ids = text(3000)[: most + 1]
    wanted = Counter(pairwise(ids))
    told = zip(found.firsts.tolist(), found.seconds.tolist(), found.counts.tolist(), strict=True)
    assert {(first, second): count for first, second, count in told} == wanted
    assert found.tokens.tolist() == [Counter(ids[:-1])[token] for token in range(VOCABULARY)]


def test_a_fresh_model_predicts_as_the_smoothed_bigram_model(shards: Shards) -> None:
    """Width 256 holds the whole matrix of 200 tokens, so nothing is approximated."""
    pairs = count_pairs(shards, VOCABULARY)
    torch.manual_seed(0)
    model = fresh_model(by_depth(2, vocabulary=VOCABULARY, context=64), bos=1, eos=2, pad=0)
    begin_from(pairs, model)
    counts = torch.zeros(VOCABULARY, VOCABULARY)
    counts[pairs.firsts, pairs.seconds] = pairs.counts
    smoothed = (counts - bigrams.DISCOUNT).clamp(min=0) + bigrams.PRIOR * (pairs.tokens + 1) / (pairs.tokens + 1).sum()
    wanted = smoothed / smoothed.sum(1, keepdim=True)
    ids = torch.arange(40, 100)
    assert torch.allclose(logits(model, ids).softmax(1), wanted[ids], rtol=2e-3, atol=1e-6)


def test_a_narrow_model_keeps_the_better_half_of_it(shards: Shards) -> None:
    pairs = count_pairs(shards, VOCABULARY)
    torch.manual_seed(0)
    embedding, head = weights(pairs, 32)
    assert torch.allclose(embedding.norm(dim=1), torch.full((VOCABULARY,), 32.0).sqrt(), rtol=1e-3)
    ids = torch.tensor(text(3000))
    share = (pairs.tokens + 1) / (pairs.tokens + 1).sum()
    unigram = -share[ids[1:]].log().mean()
    loss = torch.nn.functional.cross_entropy((embedding @ head.T)[ids[:-1]], ids[1:])
    whole = torch.nn.functional.cross_entropy(torch.matmul(*_whole(pairs))[ids[:-1]], ids[1:])
    assert loss < unigram - 0.5 * (unigram - whole)


def _whole(pairs: Pairs) -> tuple[Tensor, Tensor]:
    embedding, head = weights(pairs, 256)
    return embedding, head.T


def test_factors_are_those_of_the_dense_decomposition() -> None:
    torch.manual_seed(0)
    dense = torch.randn(300, 40) @ torch.diag(0.8 ** torch.arange(40)) @ torch.randn(40, 300)
    dense[torch.rand(300, 300) < 0.5] = 0  # full rank again, with a tail
    told: list[int] = []

    def track(work: Sequence[int]) -> Iterator[int]:
        for each in work:
            yield each
            told.append(each)

    left, values, right = factors(dense.to_sparse(), 80, track=track)
    assert told == list(range(len(told))) and told
    wanted = torch.linalg.svdvals(dense)
    assert torch.allclose(values[:10], wanted[:10], rtol=1e-3)
    for vectors in (left, right):
        assert torch.allclose(vectors.mT @ vectors, torch.eye(80), atol=1e-5)
    best = wanted[60:].norm()
    assert (dense - left[:, :60] * values[:60] @ right[:, :60].mT).norm() < 1.01 * best


def test_a_text_of_one_token_gives_finite_weights(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards", 300) as writer:
        writer.write([7])
    for each in weights(count_pairs(Shards(tmp_path / "shards"), 300), 64):
        assert bool(torch.isfinite(each).all())
