"""One call of the model: ids and a mask in, the last logits out, the cache grown."""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers.cache_utils import Cache

from inhouse.errors import EngineError
from inhouse_transformers.attention import share_prefixes
from inhouse_transformers.cache import Known, new_cache, plain
from inhouse_transformers.load import Loaded

CHUNK = 4096
"""Tokens (rows times columns) of a prompt that are computed together; bounds the activations."""

CALL = 32
"""What one more call costs, in tokens: all weights are read again."""


class Forward:
    """Runs a causal model on its cache.

    ``shares`` says that states can be kept and shared between rows, ``plain`` that a call may hold only the
    first rows of the cache; ``vocabulary`` is the width of the logits.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.model = loaded.model
        self.device = loaded.device
        self.config: Any = loaded.model.config
        self.plain = plain(self.config)
        self.shares = self.plain and share_prefixes(self.model)
        self.vocabulary = int(self.config.get_text_config(decoder=True).vocab_size)
        known = inspect.signature(self.model.forward).parameters
        if "cache" not in known:
            raise EngineError(f"a {type(self.model).__name__} takes no key/value cache, which this runtime needs")
        self._positions = "position_ids" in known
        self._keep = "logits_to_keep" in known

    def cache(self) -> Cache:
        """An empty cache."""
        return new_cache(self.config)

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache, *, prefix: Known | None = None, keep: int = 1
    ) -> torch.Tensor:
        """Computes the columns ``ids`` (rows, n) that follow ``prefix``, which all rows share, and ``cache``.

        ``mask`` (rows, cached + n) is 0 where a column is padding. Returns float32 logits
        (rows, keep, vocabulary) of the last ``keep`` columns.
        """
        columns = ids.shape[1]
        extra: dict[str, Any] = {}
        if self._positions:
            before = len(prefix.ids) if prefix else 0
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -columns:] + before
        if prefix:
            extra["shared_prefix"] = prefix
        if self._keep:
            extra["logits_to_keep"] = keep
        with torch.inference_mode():
            out = self.model(input_ids=ids, attention_mask=mask, cache=cache, use_cache=True, **extra)
        logits: torch.Tensor = out.logits[:, -keep:].float()
        return logits

    def prefill(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache, *, prefix: Known | None = None
    ) -> torch.Tensor:
        """As a call, in pieces of columns; returns the logits of the last column (rows, vocabulary).

        Prompts are padded on the left, and the rows come with the least padding first, so that a piece
        computes only the rows that have a token in it; all of them in a cache that cannot grow by rows.
        """
        columns = ids.shape[1]
        cached = mask.shape[1] - columns
        begins = mask[:, cached:].argmax(1).tolist() if self.plain else [0] * len(ids)
        logits = torch.empty(0)
        for start, end, rows in pieces(begins, columns):
            logits = self(ids[:rows, start:end], mask[:rows, : cached + end], cache, prefix=prefix)[:, -1]
        return logits


def pieces(begins: Sequence[int], columns: int) -> list[tuple[int, int, int]]:
    """How to compute rows that begin at the ascending columns ``begins`` and all end at ``columns``.

    Of all ways to cut the columns where rows begin, the one that computes least: (start, end, rows) each,
    the rows being those that begin before ``end``. None is larger than ``CHUNK`` unless it is one column.
    """
    edges = sorted({0, *begins, columns})
    best: dict[int, tuple[int, list[tuple[int, int, int]]]] = {0: (0, [])}
    for end in edges[1:]:
        rows = bisect_left(begins, end)
        ways = ((best[start][0] + rows * (end - start) + CALL, start) for start in edges if start < end)
        cost, start = min(ways)
        width = max(1, CHUNK // rows)
        cuts = [*range(start, end, width), end]
        best[end] = (cost, [*best[start][1], *((first, last, rows) for first, last in pairwise(cuts))])
    return best[columns][1]
