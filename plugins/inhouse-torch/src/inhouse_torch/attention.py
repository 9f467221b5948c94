"""Causal attention over a joined sequence: every segment sees the shared prefix and itself.

Worked off in blocks of rows whose scores stay in the cache. Nothing is padded and no mask beyond a block's
own triangle is made. Keys and values are not repeated for grouped queries: the queries of a group are the
rows of one product. Where there is one, a flash-attention kernel does it instead: on a GPU in 16 bits
(``varlen.py``), on a CPU in bf16 (``flash.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from inhouse.errors import StepError

from .flash import flash_attention, flash_fits
from .packing import Segments
from .precision import autocast_dtype
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
    """Rows ``first`` to ``last`` (excluded) of each of ``count`` segments of ``length`` tokens, from ``begin`` on.

    They see the ``prefix`` first tokens of all, and their own segment up to ``last``. With a prefix ``count`` is 1.
    """

    begin: int
    length: int
    count: int
    first: int
    last: int
    prefix: int

    def _rows(self, x: Tensor, start: int, *shape: int) -> Tensor:
        """A view of rows ``start`` to ``last`` of every segment: (T, heads, D) -> (count, rows, *shape)."""
        segments = x[self.begin : self.begin + self.count * self.length].view(self.count, self.length, *shape)
        return segments[:, start : self.last]

    def queries(self, q: Tensor, kv_heads: int) -> Tensor:
        """(T, H, D) -> (count * KV, H/KV * rows, D), a copy."""
        _, heads, size = q.shape
        piece = self._rows(q, self.first, kv_heads, heads // kv_heads, size)
        return piece.permute(0, 2, 3, 1, 4).reshape(self.count * kv_heads, -1, size)

    def write_queries(self, rows: Tensor, out: Tensor) -> None:
        """The inverse of :meth:`queries`, into ``out`` (T, H, D)."""
        kv_heads, size = rows.shape[0] // self.count, rows.shape[2]
        piece = self._rows(out, self.first, kv_heads, out.shape[1] // kv_heads, size)
        piece.copy_(rows.view(self.count, kv_heads, -1, self.last - self.first, size).permute(0, 3, 1, 2, 4))

    def keys(self, k: Tensor) -> Tensor:
        """(T, KV, D) -> (count * KV, keys, D): a view of one segment without a prefix, else a copy."""
        if self.prefix:
            return torch.cat((k[: self.prefix], k[self.begin : self.begin + self.last])).transpose(0, 1)
        return self._rows(k, 0, *k.shape[1:]).transpose(1, 2).reshape(-1, self.last, k.shape[2])

    def add_keys(self, grad: Tensor, out: Tensor) -> None:
        """Adds a gradient (count * KV, keys, D) to the rows of ``out`` (T, KV, D) that the keys came from."""
        grad = grad.view(self.count, -1, *grad.shape[1:]).transpose(1, 2)
        if self.prefix:
            out[: self.prefix] += grad[0, : self.prefix]
        own = self._rows(out, 0, *out.shape[1:])
        own += grad[:, self.prefix :]

    def weights(self, q: Tensor, k: Tensor, scale: float, window: int | None) -> Tensor:
        """Softmax of the masked scores, (count * KV, H/KV * rows, keys)."""
        scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=scale)
        rows = self.last - self.first
        view = scores.view(scores.shape[0], -1, rows, scores.shape[-1])
        if window is None:
            view[..., -rows:] += torch.full((rows, rows), float("-inf"), device=q.device, dtype=q.dtype).triu_(1)
        else:
            last = scores.shape[-1] - 1
            column = torch.arange(last + 1, device=q.device)
            row = torch.arange(last + 1 - rows, last + 1, device=q.device).unsqueeze(1)
            view.masked_fill_((column > row) | (column <= row - window), float("-inf"))
        return torch.softmax(scores, -1)


def _blocks(segments: Segments, row_bytes: int) -> Iterator[_Block]:
    """All blocks in order; ``row_bytes`` is the size of one column of scores: of all heads for one key.

    Segments of one length that follow each other are worked off together, as many as are kept, and cut finer.
    """
    if segments.prefix:
        yield from _cut(0, segments.prefix, 1, 0, BLOCK_ROWS)
    start = segments.prefix
    for length, alike in groupby(segments.lengths):
        count, rows = len(list(alike)), BLOCK_ROWS
        most = 1
        if count > 1 and not segments.prefix:
            rows = max(1, BLOCK_ROWS // 2)
            most = max(1, KEEP_BYTES // (row_bytes * min(length, rows) * length))
        for done in range(0, count, most):
            yield from _cut(start + done * length, length, min(most, count - done), segments.prefix, rows)
        start += count * length


def _cut(begin: int, length: int, count: int, prefix: int, rows: int) -> Iterator[_Block]:
    pieces = -(-length // rows)
    for first, last in pairwise(length * i // pieces for i in range(pieces + 1)):
        yield _Block(begin, length, count, first, last, prefix)


Layout = tuple[Segments, float, int | None]
"""Segments, scale of the scores and sliding window in tokens."""


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, list[Tensor | None]]:
    """Output (T, H, D), and the attention weights that are kept for the gradient."""
    segments, scale, window = layout
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    kept: list[Tensor | None] = []
    for block in _blocks(segments, q.shape[1] * q.element_size()):
        weights = block.weights(block.queries(q, k.shape[1]), block.keys(k), scale, window)
        block.write_queries(torch.bmm(weights, block.keys(v)), out)
        kept.append(weights if weights.numel() * weights.element_size() <= KEEP_BYTES else None)
    return out, kept


def _attend_backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    kept: Sequence[Tensor | None],
    layout: Layout,
    into: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Writes the gradients of q, k and v ``into`` tensors of their shapes; those of k and v have to be zero."""
    segments, scale, window = layout
    (q, k, v), (grad_q, grad_k, grad_v) = inputs, into
    zero = grad.new_zeros(())
    for block, known in zip(_blocks(segments, q.shape[1] * q.element_size()), kept, strict=True):
        rows, keys, own = block.queries(q, k.shape[1]), block.keys(k), block.queries(grad, k.shape[1])
        weights = known if known is not None else block.weights(rows, keys, scale, window)
        block.add_keys(torch.bmm(weights.transpose(1, 2), own), grad_v)
        slope = torch.bmm(own, block.keys(v).transpose(1, 2))
        slope = torch.ops.aten._softmax_backward_data(slope, weights, -1, weights.dtype)
        block.write_queries(torch.baddbmm(zero, slope, keys, beta=0, alpha=scale), grad_q)
        block.add_keys(torch.baddbmm(zero, slope.transpose(1, 2), rows, beta=0, alpha=scale), grad_k)


class _SegmentAttention(torch.autograd.Function):
    """Attention with optional rotary embedding; see :func:`segment_attention`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, layout: Layout
    ) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            if cos is not None and sin is not None:
                q, k = _rotate(q, cos, sin, 1.0), _rotate(k, cos, sin, 1.0)
            out, kept = _attend(q, k, v, layout)
        ctx.save_for_backward(q, k, v, cos, sin, *kept)
        ctx.layout = layout
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, *kept = ctx.saved_tensors
        grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        _attend_backward(grad, (q, k, v), kept, ctx.layout, (grad_q, grad_k, grad_v))
        if cos is not None and sin is not None:
            grad_q, grad_k = _rotate(grad_q, cos, sin, -1.0), _rotate(grad_k, cos, sin, -1.0)
        return grad_q, grad_k, grad_v, None, None, None


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
    tokens. Returns (T, H, D), under autocast in its format.
    """
    q, k, v = (each.to(autocast_dtype(each)) for each in (q, k, v))
    if window is None and flash_fits(q, k, v):
        return flash_attention(q, k, v, segments, scale=scale, rotary=rotary)
    cos, sin = (each.to(q.dtype) for each in rotary) if rotary is not None else (None, None)
    varlen = varlen_kernel(v.device, v.dtype, v.shape[-1])
    if varlen is not None:
        if cos is not None and sin is not None:
            q, k = _rotate(q, cos, sin, 1.0), _rotate(k, cos, sin, 1.0)
        return attend(varlen, q, k, v, segments, scale=scale, window=window)
    out: Tensor = _SegmentAttention.apply(q, k, v, cos, sin, (segments, scale, window))  # type: ignore[no-untyped-call]
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
    if segments is None and key.shape[2] != query.shape[2]:
        raise StepError("the attention of joined batches goes on from no cache: set another one to generate")
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
