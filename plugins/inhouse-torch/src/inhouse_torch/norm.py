"""RMSNorm in few passes over memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .native import call, kernel
from .precision import autocast_dtype

PIECE_BYTES = 1 << 20
"""Rows of the gradient are worked off in pieces of this size in fp32, which stay in a CPU's cache."""

_PARTS = 16
"""Groups of rows that the weight's gradient is summed over before those sums are."""


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of ``tensors``, the first of which is (rows, size), piece by piece."""
    first = tensors[0]
    rows = max(1, PIECE_BYTES // (4 * first.shape[1]) if first.device.type == "cpu" else len(first))
    return zip(*(torch.split(each, rows) for each in tensors), strict=True)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        native = kernel(wide=(x, weight)) if dtype == torch.bfloat16 else None
        if native is not None:
            out = torch.empty_like(x, dtype=dtype)
            inverse = x.new_empty(*x.shape[:-1], 1)
            call(native.norm, x, weight, inverse, out, inverse.numel(), x.shape[-1], eps)
            ctx.save_for_backward(x, weight, inverse)
            return out
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = inverse.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normal = (wide * inverse).to(torch.promote_types(x.dtype, weight.dtype))
        made: Tensor = normal.mul_(weight).to(dtype)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        size, wide_weight = x.shape[-1], weight.float()
        grad_x = torch.empty(grad.shape, dtype=x.dtype, device=x.device)
        native = kernel(grad, wide=(x, weight))
        if native is not None:
            parts = x.new_empty(_PARTS, size)
            call(native.norm_backward, x, weight, inverse, grad, grad_x, parts, inverse.numel(), size, _PARTS)
            return grad_x, parts.sum(0) if ctx.needs_input_grad[1] else None, None, None
        grad_weight = torch.zeros_like(wide_weight) if ctx.needs_input_grad[1] else None
        flat = (x.reshape(-1, size), inverse.view(-1, 1), grad.reshape(-1, size), grad_x.view(-1, size))
        for x_i, inverse_i, grad_i, out in _pieces(*flat):
            # d/dx (x r) with r = (mean(x^2) + eps)^-1/2:  r (g - x r <g, x r> / D)
            normal, slope = x_i * inverse_i, grad_i.float()
            both = normal * slope
            if grad_weight is not None:
                grad_weight += both.sum(0)
            along = torch.mv(both, wide_weight).unsqueeze(1).div_(-size)
            out.copy_((slope * wide_weight).addcmul_(normal, along).mul_(inverse_i))
        return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last side, statistics in fp32; differentiable in x and weight.

    The result is in the format of ``x``, under autocast in its: a norm feeds products.
    """
    out: Tensor = _RMSNorm.apply(x, weight, eps, autocast_dtype(x))  # type: ignore[no-untyped-call]
    return out
