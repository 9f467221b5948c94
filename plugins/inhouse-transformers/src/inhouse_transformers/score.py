"""Token log-probabilities of given sequences, in batches, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from transformers.cache_utils import Cache

from inhouse_transformers.cache import Known, common, cut
from inhouse_transformers.forward import Forward

LOGITS = 128 << 20
"""Bytes of float32 logits held at a time: 16 rows of a 50,000-token vocabulary take 3 MB per column."""


def logprobs(forward: Forward, sequences: Sequence[Sequence[int]], *, max_batch: int) -> list[list[float]]:
    """log p(ids[i] | ids[:i]) for i = 1 … n-1 of every sequence; natural logarithm of a float32 softmax.

    Sequences of similar length share a batch; what all of a batch begin with is computed once.
    """
    scores: list[list[float]] = [[] for _ in sequences]
    order = sorted((at for at, ids in enumerate(sequences) if len(ids) > 1), key=lambda at: len(sequences[at]))
    for start in range(0, len(order), max_batch):
        batch = order[start : start + max_batch]
        for at, values in zip(batch, _batch(forward, [list(sequences[at]) for at in batch]), strict=True):
            scores[at] = values
    return scores


def _batch(forward: Forward, rows: list[list[int]]) -> list[list[float]]:
    prefix: Known | None = None
    head = torch.empty(1, 0)
    shared = reduce(min, (common(rows[0], row) for row in rows)) - 1 if forward.shares and len(rows) > 1 else 0
    if shared > 0:
        cache = forward.cache()
        head = _columns(forward, torch.tensor([rows[0][: shared + 1]]), cache)
        prefix = cut(cache, 0, torch.ones(shared), rows[0][:shared])
    ids = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.long)
    for at, row in enumerate(rows):  # padding on the right: no token of the row sees it
        ids[at, : len(row)] = torch.tensor(row)
    tail = _columns(forward, ids, forward.cache(), prefix)
    whole = torch.cat([head.expand(len(rows), -1), tail], dim=1)
    return [values[: len(row) - 1].tolist() for row, values in zip(rows, whole, strict=True)]


def _columns(forward: Forward, ids: torch.Tensor, cache: Cache, prefix: Known | None = None) -> torch.Tensor:
    """log p of the columns of ``ids`` (rows, n) after those of ``prefix``; of all but the first without one.

    Goes through the columns piece by piece on the growing, at first empty cache, so only a piece's logits
    exist at once.
    """
    rows, columns = ids.shape
    start = len(prefix.ids) if prefix else 0
    width = max(1, LOGITS // (4 * rows * forward.vocabulary))
    ids = ids.to(forward.device)
    found = []
    for at in range(start, columns - 1, width):
        end = min(at + width, columns - 1)
        logits = forward(ids[:, at:end], ids.new_ones(rows, end - start), cache, prefix=prefix, keep=end - at)
        wanted = ids[:, at + 1 : end + 1, None]
        found.append(logits.gather(-1, wanted)[..., 0] - logits.logsumexp(-1))
    return torch.cat(found, dim=1).cpu()
