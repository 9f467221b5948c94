"""First weights from counted pairs of tokens: before its first step a model predicts as a bigram model does.

log p(y | x) - log p(y), smoothed, is a matrix with an entry for each pair that was seen and zeros elsewhere. Its
truncated singular value decomposition gives the input embedding of x and the output row of y (that embeddings
factorise such a matrix: Levy and Goldberg 2014; by random projection: Halko et al. 2011).
One more column holds log p(y), another one makes all embeddings as long, so that the norm before the head keeps
their ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from .shards import Shards

Track = Callable[[Sequence[int]], Iterable[int]]
"""Gives work on, and shows how far it is."""

MOST_TOKENS = 1 << 26
"""Tokens at the beginning of the corpus in which pairs are counted; more would change little."""
PRIOR = 300.0
"""Pseudo-counts of the unigram distribution in each p(y | x)."""
DISCOUNT = 1.0
"""Off each count: training sees the same pairs again, and a pair must not have been foretold by itself alone."""
HEAD_SHARE = 0.3
"""What the norm before the head multiplies by: the head's weights are larger by as much, and learn slower."""
_CHUNK = 1 << 22
_SPARE, _ITERATIONS = 16, 3
_TINY = 1e-12
_CONSTANT = 0.25  # the column that log p(y) is laid over, as a share of the longest embedding


@frozen(eq=False)
class Pairs:
    """``counts`` float32 (N,) of the N pairs x y that occur: y follows x; ``firsts`` and ``seconds`` int64 (N,).

    ``tokens`` float32 (V,) is how often each token occurs.
    """

    firsts: Tensor
    seconds: Tensor
    counts: Tensor
    tokens: Tensor


def count_pairs(shards: Shards, vocabulary: int, *, track: Track = iter) -> Pairs:
    """Counts chunk by chunk; ``track`` gives their first tokens on, one when the one before is done."""
    keys, counts = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    tokens = torch.zeros(vocabulary, dtype=torch.int64)
    for start in track(range(0, min(shards.count, MOST_TOKENS), _CHUNK)):
        ids = shards.read(start, min(_CHUNK + 1, shards.count - start))  # the last token is the next chunk's first
        tokens += torch.bincount(ids[:-1], minlength=vocabulary)
        more, times = torch.unique(ids[:-1] * vocabulary + ids[1:], return_counts=True)
        keys, place = torch.unique(torch.cat([keys, more]), return_inverse=True)
        counts = torch.zeros_like(keys).index_add_(0, place, torch.cat([counts, times]))
    return Pairs(keys // vocabulary, keys % vocabulary, counts.float(), tokens.float())


def weights(pairs: Pairs, width: int, *, track: Track = iter) -> tuple[Tensor, Tensor]:
    """(embedding, head), both (V, ``width``), whose product is the bigram model's logits; torch's generator draws.

    Embeddings have entries of 1 in the root mean square, as after a norm. ``track`` gives the iterations on.
    """
    size = len(pairs.tokens)
    share = (pairs.tokens + 1) / (pairs.tokens + 1).sum()
    root = share.sqrt()
    counts = (pairs.counts - DISCOUNT).clamp(min=0)
    excess = torch.log1p(counts / (PRIOR * share[pairs.seconds]))
    # an error counts in the loss as often as the pair is met: both sides are weighed by the root of their share
    weighed = root[pairs.firsts] * excess * root[pairs.seconds]
    places = torch.stack([pairs.firsts, pairs.seconds])
    matrix = torch.sparse_coo_tensor(places, weighed, (size, size), check_invariants=True)
    rank = min(width - 2, size)
    left, values, right = factors(matrix, min(rank + _SPARE, size), track=track)
    scale = values[:rank].sqrt()
    first, second = left[:, :rank] * scale / root.unsqueeze(1), right[:, :rank] * scale / root.unsqueeze(1)
    lengths = first.norm(dim=1)
    longest = float(lengths.max().clamp(min=1e-6))
    constant, length = _CONSTANT * longest, math.hypot(1.0, _CONSTANT) * longest
    embedding, head = torch.zeros(size, width), torch.zeros(size, width)
    embedding[:, :rank], head[:, :rank] = first, second
    embedding[:, -2] = constant
    head[:, -2] = (share.log() - share.log().mean()) / constant
    embedding[:, -1] = (longest**2 - lengths**2).clamp(min=0).sqrt()
    turn, _ = torch.linalg.qr(torch.randn(width, width))  # so that all columns are alike to the optimizer
    as_long = math.sqrt(width) / length
    return embedding @ turn * as_long, head @ turn / as_long


def factors(matrix: Tensor, rank: int, *, track: Track = iter) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors (N, ``rank``), values and right ones of a sparse float32 (N, N), about, largest first.

    Subspace iteration (Halko et al. 2011, algorithms 4.4 and 5.1). Five times as fast as torch.svd_lowrank, whose
    dense operands lie by columns, which the sparse product is slow with.
    """
    matrix, turned = matrix.coalesce(), matrix.mH.coalesce()
    space = _orthonormal(matrix @ torch.randn(matrix.shape[1], rank))
    for _ in track(range(_ITERATIONS)):
        space = _orthonormal(turned @ space)
        space = _orthonormal(matrix @ space)
    projected = turned @ space
    squares, turn = torch.linalg.eigh(projected.double().mT @ projected.double())  # squares have twice the digits
    values, turn = squares.flip(0).clamp(min=0).sqrt().float(), turn.flip(1).float()
    return space @ turn, values, projected @ turn / values.clamp(min=_TINY)


def _orthonormal(columns: Tensor) -> Tensor:
    found: Tensor = torch.linalg.qr(columns)[0]
    return found.contiguous()  # it lies by columns


def begin_from(pairs: Pairs, model: Any, *, track: Track = iter) -> None:
    """Sets embedding, head and the norm before it of a fresh model with a head of its own, in place.

    ``track`` gives the iterations of the factorisation on.
    """
    embedding, head = weights(pairs, model.config.hidden_size, track=track)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embedding)
        model.get_output_embeddings().weight.copy_(head / HEAD_SHARE)
        model.base_model.norm.weight.fill_(HEAD_SHARE)
