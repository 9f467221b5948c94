"""Linear layers whose float32 weight lies in oneDNN's blocked order, where that measures faster.

With few rows torch's own product re-orders the weight for every call: decoding 16 sequences of a 135M
model, packing halved the time of the products on a Zen 3 (the output head: 24 ms instead of 40).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

ROWS = 16
"""Rows of the product that is measured: a decoding batch."""


class PackedLinear(nn.Module):
    """``nn.Linear`` for inference in float32 on a CPU; ``weight`` keeps its shape but holds no data."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.weight = nn.Parameter(torch.empty_like(linear.weight, device="meta"), requires_grad=False)
        # what torch.compile's "freezing" uses; internal to torch, hence the check in `packing_helps`
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out


def pack(model: nn.Module) -> None:
    """Replaces the linear layers of a float32 model on the CPU, one at a time, if that is faster here."""
    if not packing_helps():
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.float32 and not child._forward_hooks:
                setattr(module, name, PackedLinear(child))


def packing_helps(columns: int = 1024, outputs: int = 4096) -> bool:
    """Whether this torch packs, gives the same product, and is faster with it on this machine."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    torch_state = torch.random.get_rng_state()
    plain = nn.Linear(columns, outputs)
    x = torch.randn(ROWS, columns)
    torch.random.set_rng_state(torch_state)
    with torch.inference_mode():
        try:
            packed = PackedLinear(plain)
            same = torch.allclose(packed(x), plain(x), atol=1e-3)
        except (RuntimeError, AttributeError):  # this torch, or this build of it, does not have the two operators
            return False
        return same and best_seconds(lambda: packed(x)) < best_seconds(lambda: plain(x))


def best_seconds(work: Callable[[], object], times: int = 9) -> float:
    """The shortest of ``times`` runs after a first one: what it takes undisturbed."""
    work()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@contextmanager
def one_thread() -> Iterator[None]:
    """Measures on one thread: with more, another busy process makes all of them wait, and the figures lie."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
