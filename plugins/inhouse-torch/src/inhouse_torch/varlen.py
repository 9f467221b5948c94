"""Attention over joined sequences of different lengths by a flash-attention kernel, where a GPU has one.

Every kernel here has the interface :class:`Kernel`. Which one there is, :func:`varlen_kernel` says.
"""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from .packing import Segments

LARGEST_HEAD = 256
"""Flash attention takes heads up to this size, in steps of 8."""


class Kernel(Protocol):
    """Sequence i has the queries ``cu_seq_q[i]`` to ``cu_seq_q[i + 1]`` and the keys of ``cu_seq_k`` alike.

    ``q`` (Tq, H, D), ``k`` and ``v`` (Tk, KV, D) with KV dividing H, fp16 or bf16; ``cu_seq_*`` int32 (N + 1,)
    on the same device; ``max_*`` the longest sequence. Causal: a sequence's last query sees its last key, the
    one before it the key before, and so on. ``window`` is how many keys a query sees, its own included.
    Returns (Tq, H, D); differentiable in q, k and v.
    """

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        /,
        *,
        causal: bool,
        scale: float,
        window: int | None,
    ) -> Tensor: ...


@lru_cache
def varlen_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel | None:
    """torch's own kernel, else flash_attn's, else that of an older torch (2.11); None where none takes such tensors.

    torch's sums its gradients in a fixed order only under ``torch.use_deterministic_algorithms(True)``.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    if head_size % 8 or head_size > LARGEST_HEAD or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    for module, name, needed, call in (
        ("torch.nn.attention.varlen", "varlen_attn", {"scale", "window_size", "enable_gqa"}, _by_torch),
        ("flash_attn", "flash_attn_varlen_func", {"softmax_scale", "window_size", "deterministic"}, _by_flash_attn),
        ("torch.nn.attention.varlen", "varlen_attn", {"scale", "window_size"}, _by_older_torch),
    ):
        found = _function(module, name)
        if found is not None and needed <= set(inspect.signature(found).parameters):
            return partial(call, found)
    return None


def _function(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:  # not installed, or built for another torch
        return None


def _reach(causal: bool, window: int | None) -> tuple[int, int]:
    """Keys to the left and to the right of its own that a query sees; -1: all."""
    return (-1 if window is None else window - 1, 0 if causal else -1)


def _by_torch(function: Any, *tensors: Tensor | int, causal: bool, scale: float, window: int | None) -> Tensor:
    out: Tensor = function(*tensors, scale=scale, window_size=_reach(causal, window), enable_gqa=True)
    return out


def _by_older_torch(
    function: Any, q: Tensor, k: Tensor, v: Tensor, *layout: Any, causal: bool, scale: float, window: int | None
) -> Tensor:
    """Without grouped queries: keys and values once for each head."""
    k, v = (each.unsqueeze(2).expand(-1, -1, q.shape[1] // each.shape[1], -1).flatten(1, 2) for each in (k, v))
    out: Tensor = function(q, k, v, *layout, scale=scale, window_size=_reach(causal, window))
    return out


def _by_flash_attn(function: Any, *tensors: Tensor | int, causal: bool, scale: float, window: int | None) -> Tensor:
    reach = _reach(causal, window)
    out: Tensor = function(*tensors, softmax_scale=scale, causal=causal, window_size=reach, deterministic=True)
    return out


@lru_cache(maxsize=4)  # the layers of a model ask for the same one
def _layout(segments: Segments, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    """``cu_seq_q``, ``cu_seq_k``, ``max_q`` and ``max_k``: a shared prefix is a sequence, and keys of all others."""
    prefix, lengths = segments.prefix, segments.lengths
    queries = [prefix, *lengths] if prefix else [*lengths]
    keys = [prefix, *(prefix + each for each in lengths)] if prefix else queries
    ends = [torch.tensor([0, *accumulate(each)], dtype=torch.int32, device=device) for each in (queries, keys)]
    return ends[0], ends[1], max(queries), max(keys)


def _with_prefix(x: Tensor, segments: Segments) -> Tensor:
    """(T, KV, D) with the rows of the prefix before each segment. No gather: its gradient has no fixed order."""
    if not segments.prefix:
        return x
    prefix, *own = torch.split(x, [segments.prefix, *segments.lengths])
    return torch.cat([prefix, *(part for each in own for part in (prefix, each))])


def attend(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, scale: float, window: int | None
) -> Tensor:
    """Causal attention of every segment over the prefix and itself by ``kernel``, in the dtype of ``v``.

    Shapes as in :func:`inhouse_torch.attention.segment_attention`; returns (T, H, D) in the dtype of ``q``.
    """
    q_, k_ = q.to(v.dtype), _with_prefix(k.to(v.dtype), segments)  # autocast leaves q and k of rotary wider than v
    layout = _layout(segments, q.device)
    out = kernel(q_, k_, _with_prefix(v, segments), *layout, causal=True, scale=scale, window=window)
    return out.to(q.dtype)
