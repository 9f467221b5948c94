"""Cross entropy of the rows that have a target, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .precision import autocast_dtype

CHUNK_BYTES = 64 << 20
"""Size of one block of fp32 logits."""


class _HeadLoss(torch.autograd.Function):
    """Sum of token losses; the gradients are made in the forward pass, block by block, and scaled later."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, targets, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if saved is None else saved * grad for saved in ctx.saved_tensors), None, None)


def _forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    narrow_hidden, narrow_weight = hidden.to(dtype), weight.to(dtype)
    rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
    grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for start in range(0, hidden.shape[0], rows):
        piece = narrow_hidden[start : start + rows]
        picked = targets[start : start + rows].unsqueeze(1)
        logits = torch.nn.functional.linear(piece, narrow_weight).float()
        slope = torch.softmax(logits, 1)
        # log-sum-exp out of the largest probability, which cannot underflow: one exp a logit in all
        norm = logits.amax(1, keepdim=True) - slope.amax(1, keepdim=True).log_()
        total += (norm - logits.gather(1, picked)).sum(dtype=torch.float64)
        if grad_hidden is None and grad_weight is None:
            continue
        slope.scatter_add_(1, picked, slope.new_full((1, 1), -1.0).expand_as(picked))
        slope = slope.to(dtype)
        if grad_hidden is not None:
            grad_hidden[start : start + rows] = torch.mm(slope, narrow_weight)
        if grad_weight is not None and grad_weight.dtype == dtype:
            grad_weight.addmm_(slope.t(), piece)
        elif grad_weight is not None:
            grad_weight += torch.mm(slope.t(), piece)
    ctx.save_for_backward(grad_hidden, grad_weight)
    return total.float()


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over rows: hidden (N, D), weight (V, D), targets int64 (N,) -> fp32 scalar.

    Products are in the format of ``weight``, under autocast in its; logits, log-sum-exp and the sum are fp32 or
    wider. Differentiable once in hidden and weight.
    """
    loss: Tensor = _HeadLoss.apply(hidden, weight, targets, autocast_dtype(weight))  # type: ignore[no-untyped-call]
    return loss
