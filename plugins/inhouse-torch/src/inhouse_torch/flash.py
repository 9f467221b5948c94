"""Attention of joined sequences in one pass, on a CPU that multiplies bf16 in AVX-512 (``attention.c``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .native import call, library
from .packing import Segments

_PARTS = 4
"""Groups of segments that work side by side on the gradients of a prefix; a fixed number, so that the sums have an
order that does not depend on the number of threads."""

Tables = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary embedding, each (T, D)."""


def flash_fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether :func:`flash_attention` computes these: bf16 on a CPU with AVX512-BF16, all of one head size."""
    alike = all(each.dtype == torch.bfloat16 and each.device.type == "cpu" for each in (q, k, v))
    if not alike or not len(q) or q.shape[2] % 16 or not q.shape[2] == k.shape[2] == v.shape[2]:
        return False
    found = library()
    return found is not None and hasattr(found, "attend")


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
        layout = _layout(segments, (q.shape[1], k.shape[1], q.shape[2], q.stride(0), k.stride(0), v.stride(0)))
        out, sums = _empty(q.shape), _empty(q.shape[:2], torch.float32)
        call(library().attend, q, k, v, cos, sin, out, sums, _work(layout, backward=False), layout, scale)
        ctx.save_for_backward(q, k, v, cos, sin, sums, layout)
        ctx.prefix, ctx.scale = segments.prefix, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, sums, layout = ctx.saved_tensors
        found = [_empty(each.shape) for each in (q, k, v)]
        parts = _empty((_PARTS, k.shape[1], 2, ctx.prefix, k.shape[2]), torch.float32).zero_()
        inputs = (q, k, v, cos, sin, sums, grad.contiguous())
        call(library().attend_backward, *inputs, *found, parts, _work(layout, backward=True), layout, ctx.scale)
        return (*found, None, None, None, None)


def _empty(shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="cpu")


def _work(layout: Tensor, *, backward: bool) -> Tensor:
    """What the threads work in; torch says where there is no room for it."""
    return _empty((torch.get_num_threads() * library().attend_work(layout.data_ptr(), backward),), torch.uint8)


def _rows(x: Tensor) -> Tensor:
    """``x`` (T, heads, D) with the heads of a token side by side; tokens may be apart."""
    dense = x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2])
    return x if dense else x.contiguous()


@lru_cache(maxsize=64)
def _layout(segments: Segments, sizes: tuple[int, ...]) -> Tensor:
    """``Layout`` of ``attention.c``."""
    lengths = (segments.prefix, *segments.lengths) if segments.prefix else segments.lengths
    borders = [0, *accumulate(lengths)]
    told = [*sizes, _PARTS, segments.prefix, len(lengths), *borders]
    return torch.tensor(told, dtype=torch.int64, device="cpu")


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, scale: float, rotary: Tables | None
) -> Tensor:
    """As :func:`inhouse_torch.attention.segment_attention`, where :func:`flash_fits`; ``scale`` is above 0.

    Raises ``ValueError`` for segments that are not all of the tokens, and tables that are not for each of them.
    """
    cos, sin = (each.float().contiguous() for each in rotary) if rotary is not None else (None, None)
    wanted = (segments.total, q.shape[2])
    if not segments.total == len(q) == len(k) == len(v) or any(t is not None and t.shape != wanted for t in (cos, sin)):
        raise ValueError(f"{segments.total} tokens in segments, queries {tuple(q.shape)}, keys {tuple(k.shape)}")
    out: Tensor = _Flash.apply(q, k, v, cos, sin, segments, scale)  # type: ignore[no-untyped-call]
    return out
