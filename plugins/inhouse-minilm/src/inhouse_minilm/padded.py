"""Any encoder of transformers, over texts that are filled up to the longest of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor


class PaddedEncoder:
    """Called with the token ids of texts; gives one vector each, float32 (texts, dimension)."""

    def __init__(self, model: Any, *, pooling: Literal["mean", "cls"]) -> None:
        self._model = model
        self.dtype = "float32"
        self._pooling = pooling
        self._padding = int(getattr(model.config, "pad_token_id", 0) or 0)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, texts))
        ids = torch.full((len(texts), longest), self._padding, dtype=torch.long)
        mask = torch.zeros((len(texts), longest), dtype=torch.long)
        for at, text in enumerate(texts):
            ids[at, : len(text)] = torch.tensor(text)
            mask[at, : len(text)] = 1
        hidden: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0].float()
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return ((hidden * weights).sum(dim=1) / weights.sum(dim=1)).float()
