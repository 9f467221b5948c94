"""LoRA linear layers as one autograd function for all layers that read the same input.

y_i = x W_i^T + b_i + s_i drop(x) A_i^T B_i^T. The frozen W gets no gradient, the A's are stacked into one
narrow product. On a CPU the narrow products are fp32 whatever the base is (bf16 with a side of 16 is slow there), on a
GPU in the format of x. A W that is held in 4 bits is made whole for each product, forward and backward, and not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from attrs import frozen
from torch import Tensor, nn

from .dropout import Dropout
from .nf4 import Nf4Weight, nf4_weight

Weight = Tensor | Nf4Weight
Part = tuple[Weight, Tensor | None, float]
"""Frozen weight, bias and scale of one layer."""


@frozen(eq=False)
class LoraWeights:
    """One layer: frozen ``weight`` (out, in), ``bias`` (out,) or None, fp32 ``a`` (r, in), ``b`` (out, r)."""

    weight: Weight
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float


def _dropped(x: Tensor, positions: Tensor | None) -> Tensor:
    """``x`` in the format of narrow products, a copy with ``positions`` at zero where there are any."""
    wide = x.float() if x.device.type == "cpu" else x
    if positions is None:
        return wide
    return (wide.clone() if wide is x else wide).view(-1).index_fill_(0, positions, 0.0).view_as(x)


def _whole(weight: Weight) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.whole()


def _outputs(x: Tensor, narrow: Tensor, parts: Sequence[Part], bs: Sequence[Tensor]) -> list[Tensor]:
    """x W^T + b + s narrow B^T of every layer; ``narrow`` (M, sum of ranks) is of their format."""
    outputs, start = [], 0
    for (weight, bias, scale), b in zip(parts, bs, strict=True):
        right = _whole(weight).t()
        y = torch.mm(x, right) if bias is None else torch.addmm(bias, x, right)
        own = narrow[:, start : start + b.shape[1]]
        if y.dtype == own.dtype:
            y.addmm_(own, b.t(), alpha=scale)
        else:
            y.add_(torch.mm(own, b.t()).mul_(scale))
        outputs.append(y)
        start += b.shape[1]
    return outputs


def adapter_grads(
    grads: Sequence[Tensor],
    branch: Tensor,
    narrow: Tensor,
    keep: float,
    parts: Sequence[Part],
    bs: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the narrow product's input side (M, sum of ranks), and of a_1, b_1, a_2, b_2, ..."""
    grad_narrow = torch.empty_like(narrow)
    grad_bs, start = [], 0
    for (_, _, scale), b, grad in zip(parts, bs, grads, strict=True):
        wide, own = grad.to(narrow.dtype), slice(start, start + b.shape[1])
        grad_narrow[:, own] = torch.mm(wide, b).mul_(scale * keep)
        grad_bs.append(torch.mm(narrow[:, own].t(), wide).mul_(scale).t())
        start += b.shape[1]
    grad_as = torch.split(grad_narrow.t() @ branch, [b.shape[1] for b in bs])
    return grad_narrow, [part for pair in zip(grad_as, grad_bs, strict=True) for part in pair]


def _input_grad(
    grads: Sequence[Tensor], grad_narrow: Tensor, a_all: Tensor, dropped: Tensor | None, parts: Sequence[Part]
) -> Tensor:
    """The gradient of x: through the frozen weights, and through the adapter where x was not dropped."""
    grad_x = torch.mm(grads[0], _whole(parts[0][0]))
    for (weight, _, _), grad in zip(parts[1:], grads[1:], strict=True):
        grad_x.addmm_(grad, _whole(weight))
    if dropped is None and grad_x.dtype == grad_narrow.dtype:
        return grad_x.addmm_(grad_narrow, a_all)
    back = grad_narrow @ a_all
    if dropped is not None:
        back.view(-1).index_fill_(0, dropped, 0.0)
    return grad_x.add_(back)


class _LoraGroup(torch.autograd.Function):
    """Inputs: x (M, in), dropped positions, keep scale, frozen parts, a_1, b_1, a_2, b_2, ...; one output a layer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, keep: float, parts: Sequence[Any], *pairs: Tensor
    ) -> tuple[Tensor, ...]:
        branch = _dropped(x, dropped)
        a_all, bs = torch.cat(pairs[0::2]).to(branch.dtype), [b.to(branch.dtype) for b in pairs[1::2]]
        narrow = (branch @ a_all.t()).mul_(keep)
        ctx.save_for_backward(branch, dropped, narrow, a_all, *bs)
        ctx.parts, ctx.keep = parts, keep
        return tuple(_outputs(x, narrow, parts, bs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        branch, dropped, narrow, a_all, *bs = ctx.saved_tensors
        grad_narrow, pairs = adapter_grads(grads, branch, narrow, ctx.keep, ctx.parts, bs)
        grad_x = _input_grad(grads, grad_narrow, a_all, dropped, ctx.parts) if ctx.needs_input_grad[0] else None
        return (grad_x, None, None, None, *pairs)


class _LoraMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)) with adapters; the product of the two is made again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Sequence[Tensor | None], keep: float, parts: Sequence[Any], *pairs: Tensor
    ) -> Tensor:
        branch = _dropped(x, dropped[0])
        a_gate, b_gate, a_up, b_up, a_down, b_down = (pair.to(branch.dtype) for pair in pairs)
        a_in, bs = torch.cat((a_gate, a_up)), [b_gate, b_up]
        narrow_in = (branch @ a_in.t()).mul_(keep)
        gate, up = _outputs(x, narrow_in, parts[:2], bs)
        inner = torch.nn.functional.silu(gate).mul_(up)
        narrow = (_dropped(inner, dropped[1]) @ a_down.t()).mul_(keep)
        (y,) = _outputs(inner, narrow, parts[2:], [b_down])
        ctx.save_for_backward(branch, narrow_in, gate, up, narrow, a_in, *bs, a_down, b_down, *dropped)
        ctx.parts, ctx.keep = parts, keep
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        branch, narrow_in, gate, up, narrow, a_in, b_gate, b_up, a_down, b_down, drop_in, drop = ctx.saved_tensors
        opened = torch.nn.functional.silu(gate)
        inner = _dropped(opened * up, drop)
        grad_narrow, last = adapter_grads([grad], inner, narrow, ctx.keep, ctx.parts[2:], [b_down])
        grad_inner = _input_grad([grad], grad_narrow, a_down, drop, ctx.parts[2:])
        grad_up = opened.mul_(grad_inner)
        grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
        grads, bs = [grad_gate, grad_up], [b_gate, b_up]
        grad_narrow, first = adapter_grads(grads, branch, narrow_in, ctx.keep, ctx.parts[:2], bs)
        grad_x = _input_grad(grads, grad_narrow, a_in, drop_in, ctx.parts[:2]) if ctx.needs_input_grad[0] else None
        return (grad_x, None, None, None, *first, *last)


def _flat(layers: Sequence[LoraWeights]) -> tuple[list[Any], list[Tensor]]:
    parts = [(layer.weight, layer.bias, layer.scale) for layer in layers]
    return parts, [tensor for layer in layers for tensor in (layer.a, layer.b)]


def lora_group(x: Tensor, layers: Sequence[LoraWeights], dropout: Dropout | None = None) -> tuple[Tensor, ...]:
    """All ``layers`` on one input ``x`` (M, in), one output (M, out_i) each, in the dtype of x.

    ``dropout`` acts on the input of the A's; the layers of one group drop the same elements (each alone sees
    what peft's dropout does).
    """
    dropped = dropout.draw(x.numel(), x.device) if dropout is not None else None
    parts, pairs = _flat(layers)
    keep = dropout.scale if dropout is not None else 1.0
    return cast("tuple[Tensor, ...]", _LoraGroup.apply(x, dropped, keep, parts, *pairs))  # type: ignore[no-untyped-call]


def lora_mlp(
    x: Tensor, gate: LoraWeights, up: LoraWeights, down: LoraWeights, dropout: Dropout | None = None
) -> Tensor:
    """down(silu(gate(x)) * up(x)) for ``x`` (M, in) -> (M, in); dropout as in :func:`lora_group`."""
    sizes = (x.numel(), x.shape[0] * gate.weight.shape[0])
    dropped = [dropout.draw(size, x.device) if dropout is not None else None for size in sizes]
    parts, pairs = _flat([gate, up, down])
    keep = dropout.scale if dropout is not None else 1.0
    return cast("Tensor", _LoraMLP.apply(x, dropped, keep, parts, *pairs))  # type: ignore[no-untyped-call]


def lora_weights(module: nn.Module, adapter: str = "default") -> LoraWeights | None:
    """The weights of peft's LoRA layer, or None where it is anything but plain LoRA over a linear layer.

    That is ``nn.Linear``, or bitsandbytes' in 4 bits.
    """
    from peft.tuners.lora import Linear, LoraLayer

    if not isinstance(module, LoraLayer):
        return None
    base: Any = module.get_base_layer()
    kinds: tuple[Any, Any] = type(module), type(base)
    weight = base.weight if kinds == (Linear, nn.Linear) else nf4_weight(base)
    if weight is None or adapter not in module.lora_A or adapter in module.lora_variant or module.lora_bias[adapter]:
        return None
    a: Any = module.lora_A[adapter]
    b: Any = module.lora_B[adapter]
    return LoraWeights(
        weight=weight,
        bias=base.bias,
        a=a.weight,
        b=b.weight,
        scale=float(module.scaling[adapter]),
    )


def lora_forward(module: nn.Module, dropout: Dropout) -> Callable[[Tensor], Tensor] | None:
    """A forward for one peft LoRA layer; None where it has to keep its own."""
    layer = lora_weights(module)
    if layer is None:
        return None

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        (y,) = lora_group(flat, [layer], dropout if module.training else None)
        return y.view(*x.shape[:-1], -1)

    return forward
