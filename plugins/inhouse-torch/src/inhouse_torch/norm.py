"""RMSNorm in few passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .precision import autocast_dtype

PIECE_BYTES = 1 << 20
"""Rows of the gradient are worked off in pieces of this size in fp32, which stay in a CPU's cache."""


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = inverse.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normal = (wide * inverse).to(torch.promote_types(x.dtype, weight.dtype))
        out: Tensor = normal.mul_(weight).to(dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = (saved.reshape(-1, saved.shape[-1]) for saved in ctx.saved_tensors)
        weight, size = weight[0].float(), x.shape[-1]
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        rows = max(1, PIECE_BYTES // (4 * size) if x.device.type == "cpu" else len(x))
        pieces = (each.split(rows) for each in (x, inverse, grad.reshape(-1, size), grad_x))
        for x_i, inverse_i, grad_i, out in zip(*pieces, strict=True):
            # d/dx (x r) with r = (mean(x^2) + eps)^-1/2:  r (g - x r <g, x r> / D)
            normal = x_i * inverse_i
            slope = grad_i.float()
            both = normal * slope
            if grad_weight is not None:
                grad_weight += both.sum(0)
            along = torch.mv(both, weight).unsqueeze(1).div_(-size)
            out.copy_((slope * weight).addcmul_(normal, along).mul_(inverse_i))
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.saved_tensors[1].dtype)
        return grad_x.view_as(grad), grad_weight, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last side, statistics in fp32; differentiable in x and weight.

    The result is in the format of ``x``, under autocast in its: a norm feeds products.
    """
    out: Tensor = _RMSNorm.apply(x, weight, eps, autocast_dtype(x))  # type: ignore[no-untyped-call]
    return out
