"""Attention of joined sequences in one pass, on a CPU that multiplies bf16 in AVX-512 (``attention.c``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .native import call, library
from .packing import Segments

_PARTS = 4
"""Groups of segments that the gradients of a prefix are summed over before those sums are; as in ``attention.c``."""

Tables = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary embedding, each (T, D)."""


def flash_kernel(q: Tensor, k: Tensor, v: Tensor) -> Any:
    """The library whose ``attend`` computes these, or None."""
    fits = all(each.dtype == torch.bfloat16 and each.device.type == "cpu" for each in (q, k, v))
    if not fits or q.shape[2] % 16 or not len(q):
        return None
    found = library()
    return found if found is not None and hasattr(found, "attend") else None


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        segments: Segments,
        scale: float,
    ) -> Tensor:
        q, k, v = (_rows(each) for each in (q, k, v))
        layout = _layout(q, k, v, segments)
        out = torch.empty(q.shape, dtype=q.dtype)
        sums = torch.empty(q.shape[:2], dtype=torch.float32)
        call(library().attend, q, k, v, cos, sin, out, sums, layout, scale)
        ctx.save_for_backward(q, k, v, cos, sin, sums, layout)
        ctx.prefix, ctx.scale = segments.prefix, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, sums, layout = ctx.saved_tensors
        found = [torch.empty(each.shape, dtype=each.dtype) for each in (q, k, v)]
        parts = torch.zeros(_PARTS, k.shape[1], 2, ctx.prefix, k.shape[2])
        inputs = (q, k, v, cos, sin, sums, grad.contiguous())
        call(library().attend_backward, *inputs, *found, parts, layout, ctx.scale)
        return (*found, None, None, None, None)


def _rows(x: Tensor) -> Tensor:
    """``x`` (T, heads, D) with the heads of a token side by side; tokens may be apart."""
    dense = x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2])
    return x if dense else x.contiguous()


def _layout(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """``Layout`` of ``attention.c``."""
    borders = [0]
    for length in ((segments.prefix,) if segments.prefix else ()) + tuple(segments.lengths):
        borders.append(borders[-1] + length)
    strides = [each.stride(0) for each in (q, k, v)]
    sizes = [q.shape[1], k.shape[1], q.shape[2], *strides, segments.prefix, len(borders) - 1]
    return torch.tensor(sizes + borders, dtype=torch.int64)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, scale: float, rotary: Tables | None
) -> Tensor:
    """As :func:`inhouse_torch.attention.segment_attention`, where :func:`flash_kernel` gives a library."""
    cos, sin = (each.float().contiguous() for each in rotary) if rotary is not None else (None, None)
    out: Tensor = _Flash.apply(q, k, v, cos, sin, segments, scale)  # type: ignore[no-untyped-call]
    return out
