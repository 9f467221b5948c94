"""One call of the model: ids and a mask in, the last logits out, the cache grown."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import Cache

from inhouse.errors import EngineError
from inhouse_transformers.attention import share_prefixes
from inhouse_transformers.cache import Known, new_cache, plain
from inhouse_transformers.load import Loaded

CHUNK = 4096
"""Tokens (rows times columns) of a prompt that are computed together; bounds the activations."""


class Forward:
    """Runs a causal model on its cache.

    ``shares`` says that states can be kept and shared between rows; ``vocabulary`` is the width of the
    logits.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.model = loaded.model
        self.device = loaded.device
        self.config: Any = loaded.model.config
        self.shares = plain(self.config) and share_prefixes(self.model)
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
        """As a call, in chunks of columns; returns the logits of the last column (rows, vocabulary)."""
        cached = mask.shape[1] - ids.shape[1]
        width = max(1, CHUNK // ids.shape[0])
        starts = range(0, ids.shape[1], width)
        for start in starts[:-1]:
            self(ids[:, start : start + width], mask[:, : cached + start + width], cache, prefix=prefix)
        return self(ids[:, starts[-1] :], mask, cache, prefix=prefix)[:, -1]
