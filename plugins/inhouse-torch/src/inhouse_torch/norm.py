"""RMSNorm in few passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .precision import autocast_dtype


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = inverse.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        if x.dtype == weight.dtype:
            return (wide * inverse).to(x.dtype).mul_(weight).to(dtype)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide * inverse).mul_(grad).flatten(0, -2).sum(0).to(weight.dtype)
        scaled = (grad * weight).float()
        # d/dx (x r) with r = (mean(x^2) + eps)^-1/2:  r g - x r^3 <g, x> / D
        dot = torch.linalg.vecdot(scaled, wide).unsqueeze(-1)
        factor = dot.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return scaled.mul_(inverse).addcmul_(wide, factor).to(x.dtype), grad_weight, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last side, statistics in fp32; differentiable in x and weight.

    The result is in the format of ``x``, under autocast in its: a norm feeds products.
    """
    out: Tensor = _RMSNorm.apply(x, weight, eps, autocast_dtype(x))  # type: ignore[no-untyped-call]
    return out
