"""The loss of a joined batch through a transformers model, logits only where there is a target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .cross_entropy import head_loss
from .packing import Packed, Sample, pack, split_by_tokens

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap")


def joined_loss(model: Any, packed: Packed, dtype: torch.dtype | None = None) -> Tensor:
    """Sum of the token losses of ``packed``, fp32. The model must run with the attention of this package.

    ``dtype`` is what the products of a model in fp32 are computed in (by autocast), where that is another.
    """
    with torch.autocast(packed.input_ids.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return _loss(model, packed)


def _loss(model: Any, packed: Packed) -> Tensor:
    inputs = {
        "input_ids": packed.input_ids,
        "position_ids": packed.positions,
        "segments": packed.segments,
        "use_cache": False,
    }
    head = model.get_output_embeddings()
    if _plain_head(model, head):
        hidden = model.base_model(**inputs).last_hidden_state[0]
        if len(packed.rows) < len(hidden):  # all rows are in order
            hidden = hidden[packed.rows]
        return head_loss(hidden, head.weight, packed.targets)
    logits = model(**inputs, logits_to_keep=packed.rows).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), packed.targets, reduction="sum")


def _plain_head(model: Any, head: Any) -> bool:
    """Whether logits are hidden states times the head's weight and nothing more."""
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    config = model.config.get_text_config()
    return not any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_CHANGES)


def joined_losses(
    model: Any, samples: Sequence[Sample], micro_batch_tokens: int, dtype: torch.dtype | None = None
) -> Iterator[Tensor]:
    """The summed losses of ``samples``, one micro-batch after the other; ``dtype`` as in :func:`joined_loss`."""
    for piece in split_by_tokens(samples, micro_batch_tokens):
        yield joined_loss(model, pack(piece, device=model.device), dtype)


def mean_loss(
    model: Any, samples: Sequence[Sample], micro_batch_tokens: int, dtype: torch.dtype | None = None
) -> float | None:
    """Mean token loss in evaluation mode, without gradient; None without samples."""
    if not samples:
        return None
    was_training = model.training
    model.eval()
    with torch.no_grad():
        total = sum(loss.item() for loss in joined_losses(model, samples, micro_batch_tokens, dtype))
    model.train(was_training)
    return total / sum(sample.targets for sample in samples)
