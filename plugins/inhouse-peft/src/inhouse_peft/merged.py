"""LoRA layers whose adapter is in the weight, and that weight as a quantised file holds it.

y_i = x R_i^T + b_i with R = round(W + s B A). The gradient passes straight through the rounding (Bengio et al. 2013,
arXiv:1308.3432): A and B get what they would get from W + s B A, x gets the gradient through R.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from inhouse.errors import RecipeError
from inhouse.protocols import Rounded
from inhouse_torch.patch import Patched
from inhouse_torch.patch import speed_up as speed_up_blocks

from .linear import LoraWeights, adapter_grads, lora_weights

Part = tuple[Tensor, Tensor | None, float]
"""Merged weight, bias and scale of one layer."""


@frozen(eq=False)
class MergedLayer:
    """``weights`` of a LoRA layer, its tensor's ``name`` in the model, and the ``merged`` one (out, in)."""

    name: str
    weights: LoraWeights
    merged: Tensor


class _MergedGroup(torch.autograd.Function):
    """Inputs: x (M, in), (merged, bias, scale) of each layer, a_1, b_1, a_2, b_2, ...; one output a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Sequence[Part], *pairs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *pairs)
        ctx.parts = parts
        return _outputs(x, parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *pairs = ctx.saved_tensors
        adapter = _adapter_grads(grads, x, ctx.parts, pairs)
        return (_input_grad(grads, ctx.parts) if ctx.needs_input_grad[0] else None, None, *adapter)


class _MergedMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)); the product of the two is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Sequence[Part], *pairs: Tensor) -> Tensor:
        gate, up = _outputs(x, parts[:2])
        ctx.save_for_backward(x, gate, up, *pairs)
        ctx.parts = parts
        return _outputs(torch.nn.functional.silu(gate).mul_(up), parts[2:])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, gate, up, *pairs = ctx.saved_tensors
        opened = torch.nn.functional.silu(gate)
        last = _adapter_grads([grad], opened * up, ctx.parts[2:], pairs[4:])
        grad_inner = _input_grad([grad], ctx.parts[2:])
        grad_up = opened.mul_(grad_inner)
        grads = [torch.ops.aten.silu_backward(grad_inner.mul_(up), gate), grad_up]
        first = _adapter_grads(grads, x, ctx.parts[:2], pairs[:4])
        return (_input_grad(grads, ctx.parts[:2]) if ctx.needs_input_grad[0] else None, None, *first, *last)


def _outputs(x: Tensor, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    return tuple(torch.nn.functional.linear(x, merged, bias) for merged, bias, _ in parts)


def _adapter_grads(
    grads: Sequence[Tensor], x: Tensor, parts: Sequence[Part], pairs: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Of a_1, b_1, a_2, b_2, ..."""
    branch, a_all = x.float(), torch.cat([*pairs[0::2]])
    return adapter_grads(grads, branch, branch @ a_all.t(), 1.0, parts, pairs[1::2])[1]


def _input_grad(grads: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    grad_x = torch.mm(grads[0], parts[0][0])
    for grad, (merged, _, _) in zip(grads[1:], parts[1:], strict=True):
        grad_x.addmm_(grad, merged)
    return grad_x


def merged_group(x: Tensor, layers: Sequence[MergedLayer]) -> tuple[Tensor, ...]:
    """All ``layers`` on one input ``x`` (M, in), one output (M, out_i) each, in the dtype of x."""
    parts, pairs = _flat(layers)
    return cast("tuple[Tensor, ...]", _MergedGroup.apply(x, parts, *pairs))  # type: ignore[no-untyped-call]


def merged_mlp(x: Tensor, gate: MergedLayer, up: MergedLayer, down: MergedLayer) -> Tensor:
    """down(silu(gate(x)) * up(x)) for ``x`` (M, in) -> (M, in)."""
    parts, pairs = _flat([gate, up, down])
    return cast("Tensor", _MergedMLP.apply(x, parts, *pairs))  # type: ignore[no-untyped-call]


def _flat(layers: Sequence[MergedLayer]) -> tuple[list[Part], list[Tensor]]:
    parts: list[Part] = [(each.merged, each.weights.bias, each.weights.scale) for each in layers]
    return parts, [tensor for each in layers for tensor in (each.weights.a, each.weights.b)]


@frozen
class MergedLinears:
    """See :class:`inhouse_torch.patch.Linears`; ``layers`` by module."""

    layers: Mapping[nn.Module, MergedLayer]

    def together(self, layers: Sequence[nn.Module]) -> Callable[[Tensor, bool], Sequence[Tensor]] | None:
        """One function for all ``layers``."""
        found = self._known(layers)
        return None if found is None else lambda x, _: merged_group(x, found)

    def gated(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> Callable[[Tensor, bool], Tensor] | None:
        """All of the block as one function."""
        found = self._known([gate, up, down])
        return None if found is None else lambda x, _: merged_mlp(x, *found)

    def weight(self, layer: nn.Module) -> Tensor | None:
        """The merged one."""
        found = self.layers.get(layer)
        return found.merged if found else None

    def _known(self, layers: Sequence[nn.Module]) -> list[MergedLayer] | None:
        found = [self.layers[each] for each in layers if each in self.layers]
        return found if len(found) == len(layers) else None


@define
class RoundedModel:
    """The layers of ``model`` (transformers', holding peft's LoRA layers) with merged, rounded weights.

    Weights without an adapter that the file rounds are rounded in place, once. ``stored`` is the 16-bit format that a
    merged weight is saved in before it is quantised. Raises ``RecipeError`` where a layer is no plain LoRA layer.
    """

    model: Any
    rounded: Rounded
    stored: torch.dtype
    layers: list[MergedLayer] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.layers = [*self._find()]

    def speed_up(self) -> Patched:
        """Sets the forwards (see :func:`inhouse_torch.patch.speed_up`)."""
        known = {self.model.get_submodule(each.name.removesuffix(".weight")): each for each in self.layers}
        for module, layer in known.items():
            module.forward = _alone(layer)
        done = speed_up_blocks(self.model, MergedLinears(known))  # proven while nothing is rounded
        self._round_the_rest()
        return done

    def refresh(self, instead: Mapping[Tensor, Tensor] | None = None) -> None:
        """Rounds anew, with the adapter as it is, or with other values ``instead`` of its parameters."""
        known = instead or {}

        def one(layer: MergedLayer) -> None:
            a, b = (known.get(each, each) for each in (layer.weights.a, layer.weights.b))
            layer.merged.copy_(self._round(layer.name, _merge(layer.weights, a, b)))

        with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for _ in threads.map(one, self.layers):
                pass

    def _round(self, name: str, weight: Tensor) -> Tensor:
        values = weight.to(self.stored).float().cpu().numpy()
        return torch.from_numpy(self.rounded.round(name, values))

    def _find(self) -> Iterator[MergedLayer]:
        from peft.tuners.lora import LoraLayer

        for name, module in self.model.named_modules():
            if isinstance(module, LoraLayer):
                found = lora_weights(cast("nn.Module", module))
                if found is None or not isinstance(found.weight, Tensor):
                    raise RecipeError(f"{name} is no plain LoRA layer, as quantization_aware needs: no dora, no nf4")
                yield MergedLayer(f"{name}.weight", found, _merge(found, found.a, found.b).to(found.weight.dtype))

    def _round_the_rest(self) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.dim() == 2 and not parameter.requires_grad and ".base_layer." not in name:
                    parameter.copy_(self._round(name, parameter))


def _merge(weights: LoraWeights, a: Tensor, b: Tensor) -> Tensor:
    """W + s B A in fp32, as :func:`inhouse_peft.adapter.merge` computes it."""
    return cast("Tensor", weights.weight).detach().float() + (b.detach() @ a.detach()) * weights.scale


def _alone(layer: MergedLayer) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        (y,) = merged_group(x.reshape(-1, x.shape[-1]), [layer])
        return y.view(*x.shape[:-1], -1)

    return forward
