"""Linear layers whose whole weights are trained, for ``patch.py``; under autocast products are in its format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .native import call, kernel
from .precision import autocast_dtype


class _GatedUnit(torch.autograd.Function):
    """silu(g) * u for (M, 2 * F) that holds g and u side by side."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        native = kernel(both)
        if native is not None:
            ctx.save_for_backward(both, None)
            found = both.new_empty(len(both), both.shape[1] // 2)
            call(native.gated, both, found, *found.shape)
            return found
        gate, up = both.chunk(2, -1)
        opened = torch.nn.functional.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        out = torch.empty_like(both)
        if opened is None:
            call(kernel(both).gated_backward, both, grad.contiguous(), out, *grad.shape)
            return out
        gate, up = both.chunk(2, -1)
        grad_gate, grad_up = out.chunk(2, -1)
        torch.mul(opened, grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return out


def _stacked(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """All layers on ``x`` (M, in) side by side, (M, sum of out); one product where weights are copied anyway."""
    dtype = autocast_dtype(x)
    if all(layer.weight.dtype == dtype for layer in layers):
        return torch.cat([layer(x) for layer in layers], 1)
    weight = torch.cat([layer.weight.to(dtype) for layer in layers])
    biases = [layer.bias for layer in layers]
    bias = torch.cat([each.to(dtype) for each in biases]) if biases[0] is not None else None
    return torch.nn.functional.linear(x, weight, bias)


def _widened(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer`` on ``x`` in the format of its weight: it is added to a residual, and alike are added faster."""
    out: Tensor = layer(x)
    return out.to(layer.weight.dtype)


class DenseLinears:
    """See :class:`inhouse_torch.patch.Linears`; takes plain ``nn.Linear`` only."""

    def together(self, layers: Sequence[nn.Module]) -> Callable[[Tensor, bool], Sequence[Tensor]] | None:
        """One product for all ``layers``."""
        found = _plain(layers)
        if found is None:
            return None
        if len(found) == 1:
            return lambda x, _: (_widened(found[0], x),)
        sizes = [layer.out_features for layer in found]
        return lambda x, _: torch.split(_stacked(found, x), sizes, 1)

    def gated(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> Callable[[Tensor, bool], Tensor] | None:
        """One product for gate and up."""
        found, last = _plain([gate, up]), _plain([down])
        if found is None or last is None:
            return None

        def forward(x: Tensor, _: bool) -> Tensor:
            inner: Tensor = _GatedUnit.apply(_stacked(found, x))  # type: ignore[no-untyped-call]
            return _widened(last[0], inner)

        return forward

    def weight(self, layer: nn.Module) -> Tensor | None:
        """The layer's own."""
        found = _plain([layer])
        return found[0].weight if found else None


def _plain(layers: Sequence[nn.Module]) -> list[nn.Linear] | None:
    """``layers`` where all are plain, with a bias or all without."""
    found = [layer for layer in layers if type(layer) is nn.Linear]
    alike = len({layer.bias is None for layer in found}) == 1
    return found if alike and len(found) == len(layers) else None
