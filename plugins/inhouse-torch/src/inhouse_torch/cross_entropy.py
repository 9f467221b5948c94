"""Cross entropy of the rows that have a target, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .native import call, kernel
from .precision import autocast_dtype

CHUNK_BYTES = 64 << 20
"""Size that one block of logits would have in fp32."""
SLICE_BYTES = 4 << 20
"""Rows of a block go through the softmax in slices of this size in fp32, which stay in a CPU's cache."""


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
    if hidden.device.type == "cpu" and len(targets) and not 0 <= targets.min() <= targets.max() < weight.shape[0]:
        raise IndexError(f"a target is none of the {weight.shape[0]} tokens")
    narrow_hidden, narrow_weight = hidden.to(dtype), weight.to(dtype)
    rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
    grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for start in range(0, hidden.shape[0], rows):
        piece = narrow_hidden[start : start + rows]
        logits = torch.nn.functional.linear(piece, narrow_weight)
        total += _losses_to_slopes(logits, targets[start : start + rows])
        if grad_hidden is not None:
            grad_hidden[start : start + rows] = torch.mm(logits, narrow_weight)
        if grad_weight is not None and grad_weight.dtype == dtype:
            grad_weight.addmm_(logits.t(), piece)
        elif grad_weight is not None:
            grad_weight += torch.mm(logits.t(), piece)
    ctx.save_for_backward(grad_hidden, grad_weight)
    return total.float()


def _losses_to_slopes(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the losses of ``logits`` (N, V), in whose place their gradient is written."""
    native = kernel(logits)
    if native is not None:
        losses = logits.new_empty(len(logits), dtype=torch.float64)
        call(native.slopes, logits, targets.to(torch.int64).contiguous(), losses, *logits.shape)
        return losses.sum()
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    rows = max(1, SLICE_BYTES // (4 * logits.shape[1]) if logits.device.type == "cpu" else len(logits))
    for part, picked in zip(torch.split(logits, rows), torch.split(targets.unsqueeze(1), rows), strict=True):
        wide = part.float()
        slope = torch.softmax(wide, 1)
        # log-sum-exp out of the largest probability, which cannot underflow: one exp a logit in all
        norm = wide.amax(1, keepdim=True) - slope.amax(1, keepdim=True).log_()
        total += (norm - wide.gather(1, picked)).sum(dtype=torch.float64)
        part.copy_(slope.scatter_add_(1, picked, slope.new_full((1, 1), -1.0).expand_as(picked)))
    return total


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over rows: hidden (N, D), weight (V, D), targets int64 (N,) -> fp32 scalar.

    Products are in the format of ``weight``, under autocast in its; logits, log-sum-exp and the sum are fp32 or
    wider. Differentiable once in hidden and weight.
    """
    if not torch.is_grad_enabled():  # what is asked for a gradient makes it in the forward pass
        hidden, weight = hidden.detach(), weight.detach()
    loss: Tensor = _HeadLoss.apply(hidden, weight, targets, autocast_dtype(weight))  # type: ignore[no-untyped-call]
    return loss
