"""Token log-probabilities, and whole distributions, of given sequences, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from transformers.cache_utils import Cache

from inhouse_transformers.cache import Known, common, cut
from inhouse_transformers.forward import Forward

LOGITS = 128 << 20
"""Bytes of float32 logits held at a time: 16 rows of a 50,000-token vocabulary take 3 MB per column."""

PIECE = 32
"""Columns computed together at most; then the rows that have ended leave."""


def logprobs(forward: Forward, sequences: Sequence[Sequence[int]], *, max_batch: int) -> list[list[float]]:
    """log p(ids[i] | ids[:i]) for i = 1 … n-1 of every sequence; natural logarithm of a float32 softmax.

    Sequences of similar length share a batch; what all of a batch begin with is computed once.
    """
    scores: list[list[float]] = [[] for _ in sequences]
    order = sorted((at for at, ids in enumerate(sequences) if len(ids) > 1), key=lambda at: -len(sequences[at]))
    for start in range(0, len(order), max_batch):
        batch = order[start : start + max_batch]
        for at, values in zip(batch, _batch(forward, [list(sequences[at]) for at in batch]), strict=True):
            scores[at] = values
    return scores


def distribution(forward: Forward, ids: Sequence[int]) -> torch.Tensor:
    """Logits after ids[:i], i = 1 … n-1, float32 (n-1, vocabulary) on the CPU."""
    cache, columns = forward.cache(), torch.tensor([list(ids)], device=forward.device)
    pieces = [torch.empty(0, forward.vocabulary)]
    for at in range(0, len(ids) - 1, PIECE):
        end = min(at + PIECE, len(ids) - 1)
        pieces.append(forward(columns[:, at:end], columns.new_ones(1, end), cache, keep=end - at)[0].cpu())
    return torch.cat(pieces)


def _batch(forward: Forward, rows: list[list[int]]) -> list[list[float]]:
    """Scores of ``rows``, the longest first."""
    prefix: Known | None = None
    head: list[float] = []
    shared = reduce(min, (common(rows[0], row) for row in rows)) - 1 if forward.shares and len(rows) > 1 else 0
    if shared > 0:
        cache = forward.cache()
        (head,) = _columns(forward, [rows[0][: shared + 1]], cache)
        prefix = cut(cache, 0, torch.ones(shared), rows[0][:shared])
    return [head + tail for tail in _columns(forward, rows, forward.cache(), prefix)]


def _columns(
    forward: Forward, rows: Sequence[Sequence[int]], cache: Cache, prefix: Known | None = None
) -> list[list[float]]:
    """log p of the tokens of ``rows`` after those of ``prefix``; of all but the first without one.

    Goes through the columns piece by piece on the growing, at first empty cache, so only a piece's logits
    exist at once; rows that have ended are left out, where the cache can do that.
    """
    start, columns = len(prefix.ids) if prefix else 0, len(rows[0])
    ids = torch.zeros(len(rows), columns, dtype=torch.long)
    for at, row in enumerate(rows):  # padding on the right: no token of the row sees it
        ids[at, : len(row)] = torch.tensor(row)
    ids = ids.to(forward.device)
    scores: list[list[float]] = [[] for _ in rows]
    width = max(1, min(PIECE, LOGITS // (4 * len(rows) * forward.vocabulary)))
    for at in range(start, columns - 1, width):
        end = min(at + width, columns - 1)
        going = sum(len(row) - 1 > at for row in rows) if forward.plain else len(rows)
        logits = forward(ids[:going, at:end], ids.new_ones(going, end - start), cache, prefix=prefix, keep=end - at)
        wanted = ids[:going, at + 1 : end + 1, None]
        found = logits.gather(-1, wanted)[..., 0] - logits.logsumexp(-1)
        for row, known, values in zip(rows, scores, found.tolist(), strict=False):
            known.extend(values[: max(0, len(row) - 1 - at)])
    return scores
