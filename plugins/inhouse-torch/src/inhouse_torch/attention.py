"""Causal attention over a joined sequence: every segment sees the shared prefix and itself.

Worked off in blocks of rows whose scores stay in the cache. Nothing is padded and no mask beyond a block's
own triangle is made. Keys and values are not repeated for grouped queries: the queries of a group are the
rows of one product. On a GPU in 16 bits a flash-attention kernel does it (``varlen.py``), where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from inhouse.errors import StepError

from .packing import Segments
from .varlen import attend, varlen_kernel

NAME = "inhouse_segments"
"""The name in transformers' attention registry."""

BLOCK_ROWS = 256
"""Most query rows of one block; longer segments are cut, which also skips what lies above the diagonal."""

KEEP_BYTES = 4 << 20
"""Attention weights of a block above this size are computed again in the backward pass, not kept."""


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """Rotary embedding of (T, heads, D) with tables (T, D); ``sign=-1`` is the inverse (its gradient)."""
    half = x.shape[-1] // 2
    out = x * cos.unsqueeze(1)
    table = sin.unsqueeze(1)
    out[..., :half].addcmul_(x[..., half:], table[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], table[..., half:], value=sign)
    return out


@frozen
class _Block:
    """Query rows ``first`` to ``last`` (excluded) see keys 0 to ``prefix`` and ``begin`` to ``last``."""

    first: int
    last: int
    begin: int
    prefix: int

    def queries(self, q: Tensor, kv_heads: int) -> Tensor:
        """(T, H, D) -> (KV, H/KV * rows, D), a copy."""
        _, heads, size = q.shape
        piece = q[self.first : self.last].view(-1, kv_heads, heads // kv_heads, size)
        return piece.permute(1, 2, 0, 3).reshape(kv_heads, -1, size)

    def write_queries(self, rows: Tensor, out: Tensor) -> None:
        """The inverse of :meth:`queries`, into ``out`` (T, H, D)."""
        kv_heads, _, size = rows.shape
        piece = rows.view(kv_heads, -1, self.last - self.first, size).permute(2, 0, 1, 3)
        out[self.first : self.last].view(piece.shape).copy_(piece)

    def keys(self, k: Tensor) -> Tensor:
        """(T, KV, D) -> (KV, keys, D): a view without a prefix, else a copy."""
        own = k[self.begin : self.last]
        return (torch.cat((k[: self.prefix], own)) if self.prefix else own).transpose(0, 1)

    def add_keys(self, grad: Tensor, out: Tensor) -> None:
        """Adds a gradient (KV, keys, D) to the rows of ``out`` (T, KV, D) that the keys came from."""
        grad = grad.transpose(0, 1)
        if self.prefix:
            out[: self.prefix] += grad[: self.prefix]
        out[self.begin : self.last] += grad[self.prefix :]

    def weights(self, q: Tensor, k: Tensor, scale: float, window: int | None) -> Tensor:
        """Softmax of the masked scores, (KV, H/KV * rows, keys)."""
        scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=scale)
        count = self.last - self.first
        view = scores.view(scores.shape[0], -1, count, scores.shape[-1])
        if window is None:
            view[..., -count:] += torch.full((count, count), float("-inf"), device=q.device, dtype=q.dtype).triu_(1)
        else:
            last = scores.shape[-1] - 1
            column = torch.arange(last + 1, device=q.device)
            row = torch.arange(last + 1 - count, last + 1, device=q.device).unsqueeze(1)
            view.masked_fill_((column > row) | (column <= row - window), float("-inf"))
        return torch.softmax(scores, -1)


def _blocks(segments: Segments) -> Iterator[_Block]:
    spans = [(0, segments.prefix, 0)]
    start = segments.prefix
    for length in segments.lengths:
        spans.append((start, start + length, segments.prefix))
        start += length
    for begin, end, prefix in spans:
        pieces = -(-(end - begin) // BLOCK_ROWS)
        cuts = [begin + (end - begin) * i // pieces for i in range(pieces + 1)] if pieces else []
        for first, last in pairwise(cuts):
            yield _Block(first, last, begin, prefix)


class _SegmentAttention(torch.autograd.Function):
    """Attention with optional rotary embedding; see :func:`segment_attention`."""

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
        window: int | None,
    ) -> Tensor:
        if cos is not None and sin is not None:
            q, k = _rotate(q, cos, sin, 1.0), _rotate(k, cos, sin, 1.0)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        kept: list[Tensor | None] = []
        for block in _blocks(segments):
            weights = block.weights(block.queries(q, k.shape[1]), block.keys(k), scale, window)
            block.write_queries(torch.bmm(weights, block.keys(v)), out)
            kept.append(weights if weights.numel() * weights.element_size() <= KEEP_BYTES else None)
        ctx.save_for_backward(q, k, v, cos, sin, *kept)
        ctx.layout = (segments, scale, window)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        segments, scale, window = ctx.layout
        q, k, v, cos, sin, *kept = ctx.saved_tensors
        zero = grad.new_zeros(())
        grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        for block, known in zip(_blocks(segments), kept, strict=True):
            rows, keys, own = block.queries(q, k.shape[1]), block.keys(k), block.queries(grad, k.shape[1])
            weights = known if known is not None else block.weights(rows, keys, scale, window)
            block.add_keys(torch.bmm(weights.transpose(1, 2), own), grad_v)
            slope = torch.bmm(own, block.keys(v).transpose(1, 2))
            slope = torch.ops.aten._softmax_backward_data(slope, weights, -1, weights.dtype)
            block.write_queries(torch.baddbmm(zero, slope, keys, beta=0, alpha=scale), grad_q)
            block.add_keys(torch.baddbmm(zero, slope.transpose(1, 2), rows, beta=0, alpha=scale), grad_k)
        if cos is not None and sin is not None:
            grad_q, grad_k = _rotate(grad_q, cos, sin, -1.0), _rotate(grad_k, cos, sin, -1.0)
        return grad_q, grad_k, grad_v, None, None, None, None, None


def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    *,
    scale: float,
    rotary: tuple[Tensor, Tensor] | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal attention of every segment over the prefix and itself.

    ``q`` (T, H, D), ``k`` and ``v`` (T, KV, D) with KV dividing H; ``rotary`` is (cos, sin), each (T, D), in
    the half-split layout that transformers uses, applied to q and k. ``window`` is a sliding window in
    tokens. Returns (T, H, D).
    """
    cos, sin = rotary if rotary is not None else (None, None)
    kernel = varlen_kernel(v.device, v.dtype, v.shape[-1])
    if kernel is not None:
        if cos is not None and sin is not None:
            q, k = _rotate(q, cos, sin, 1.0), _rotate(k, cos, sin, 1.0)
        return attend(kernel, q, k, v, segments, scale=scale, window=window)
    out: Tensor = _SegmentAttention.apply(q, k, v, cos, sin, segments, scale, window)  # type: ignore[no-untyped-call]
    return out


def _registered(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Segments | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, H, T, D) in, (1, T, H, D) out."""
    if softcap is not None or dropout or query.shape[0] != 1:
        raise StepError(
            "this model's attention has soft-capping or dropout, which joined batches do not support",
            hint="another base model, or attention_dropout = 0 in its config.json",
        )
    layout = segments if segments is not None else Segments(0, (query.shape[2],))
    out = segment_attention(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        layout,
        scale=scaling if scaling is not None else float(query.shape[-1]) ** -0.5,
        window=sliding_window,
    )
    return out.unsqueeze(0), None


def register() -> str:
    """Makes the function known to transformers; returns its name for ``set_attn_implementation``.

    No mask function is registered under the name, so transformers builds no dense mask for it. The layout
    arrives as the keyword ``segments`` of the model's forward.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _registered)
    return NAME
