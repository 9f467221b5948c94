"""The same windows of tokens in the same order for all pre-training children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inhouse_torch.schedule import batch
from inhouse_torch.shards import Shards


def batches(asked: dict[str, Any]) -> list[torch.Tensor]:
    """(batch, context + 1) ids of each step."""
    shards, length = Shards(Path(asked["tokens"]) / "train"), asked["context"]
    count = (shards.count - length) // length
    steps = asked["warmup"] + asked["steps"]
    rows = [batch(count, asked["batch_size"], place, seed=asked["seed"], epoch=0) for place in range(steps)]
    return [torch.stack([shards.read(row * length, length + 1) for row in each]) for each in rows]


def operations(model: Any, tokens: int, context: int) -> int:
    """Floating-point operations of ``tokens``: every weight forward and twice backward, causal attention too."""
    config = model.config
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    weights = matrices - model.get_input_embeddings().weight.numel()  # which is read, not multiplied
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim * (context + 1)
    return tokens * 6 * (weights + attention)
