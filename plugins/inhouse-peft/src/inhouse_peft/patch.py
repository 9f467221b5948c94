"""Puts the fast forwards into a peft model, module by module, wherever they are proven to compute the same.

Modules are recognised by what they hold and accepted by what they compute: a fast forward stays only if it
agrees with the module's own on random input. All else keeps transformers' or peft's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from attrs import define
from torch import Tensor, nn

from inhouse_torch.attention import register, segment_attention
from inhouse_torch.packing import Segments

from .dropout import Dropout
from .linear import LoraWeights, Weight, lora_forward, lora_group, lora_mlp, lora_weights
from .norm import rms_norm

Forward = Callable[..., Any]


@define
class Patched:
    """How many modules got a fast forward; ``undo`` restores the model's own code."""

    linears: int = 0
    norms: int = 0
    blocks: int = 0
    attentions: int = 0

    def undo(self, model: nn.Module) -> None:
        """Removes every forward that :func:`speed_up` set on ``model``."""
        for module in model.modules():
            module.__dict__.pop("forward", None)
        model.set_attn_implementation("sdpa")  # type: ignore[operator]


def speed_up(model: nn.Module, dropout: Dropout) -> Patched:
    """Changes ``model`` (transformers' causal model holding peft's LoRA layers) in place.

    Its forward then takes joined batches: (1, T) ids, positions, and the keyword ``segments``.
    """
    done = Patched()
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    for module in model.modules():
        if (forward := lora_forward(module, dropout)) is not None:
            module.forward = forward
            done.linears += 1
    for name, module in model.named_modules():
        if type(module).__name__.endswith("RMSNorm"):
            done.norms += _set(module, _norm_forward(module), partial(_norm_probe, module))
        elif hasattr(module, "gate_proj") and hasattr(module, "up_proj") and hasattr(module, "down_proj"):
            done.blocks += _set(module, _mlp_forward(module, dropout), partial(_mlp_probe, module))
        elif name.endswith("self_attn"):
            forward = _attention_forward(module, dropout)
            done.attentions += _set(module, forward, partial(_attention_probe, model, module))
    model.set_attn_implementation(register())  # type: ignore[operator]
    return done


def _set(module: nn.Module, forward: Forward | None, make_probe: Callable[[], Callable[[Forward], Tensor]]) -> int:
    """Sets ``forward`` on the instance if it computes what the module's own does; 1 if it was set."""
    if forward is None:  # not a module of that form, or without adapters
        return 0
    probe, was_training = make_probe(), module.training
    module.eval()
    with torch.no_grad():
        own, fast = probe(module.forward), probe(forward)
    module.train(was_training)
    tolerance = 1e-4 if own.dtype == torch.float32 else 3e-2
    if not torch.allclose(own.float(), fast.float(), rtol=tolerance, atol=tolerance * float(own.abs().max())):
        return 0
    module.forward = forward
    return 1


def _noise(*shape: int, like: Weight) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(like.device, like.dtype)


# --- norms ------------------------------------------------------------------------------------------


def _norm_forward(module: nn.Module) -> Forward | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or eps is None or weight.requires_grad:
        return None
    return lambda hidden_states: rms_norm(hidden_states, weight, float(eps))


def _norm_probe(module: nn.Module) -> Callable[[Forward], Tensor]:
    weight = cast("Tensor", module.weight)
    return lambda forward: forward(_noise(2, 3, weight.shape[0], like=weight) * 3)


# --- gated MLP --------------------------------------------------------------------------------------


def _layers(module: nn.Module, *names: str) -> list[LoraWeights] | None:
    found = [lora_weights(getattr(module, name)) if hasattr(module, name) else None for name in names]
    return [layer for layer in found if layer is not None] if None not in found else None


def _mlp_forward(module: nn.Module, dropout: Dropout) -> Forward | None:
    layers = _layers(module, "gate_proj", "up_proj", "down_proj")
    if layers is None:
        return None
    gate, up, down = layers

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return lora_mlp(flat, gate, up, down, dropout if module.training else None).view(x.shape)

    return forward


def _mlp_probe(module: nn.Module) -> Callable[[Forward], Tensor]:
    weight = lora_weights(module.gate_proj).weight  # type: ignore[arg-type, union-attr]
    return lambda forward: forward(_noise(1, 3, weight.shape[1], like=weight))


# --- attention --------------------------------------------------------------------------------------


def _attention_forward(module: nn.Module, dropout: Dropout) -> Forward | None:
    inputs, last = _layers(module, "q_proj", "k_proj", "v_proj"), _layers(module, "o_proj")
    size, scale = getattr(module, "head_dim", None), getattr(module, "scaling", None)
    if inputs is None or last is None or size is None or scale is None:
        return None
    window = getattr(module, "sliding_window", None) or getattr(module.config, "sliding_window", None)
    if window or getattr(module, "attention_dropout", 0.0):
        return None  # the registered function is told the window by the model's own code

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        drop = dropout if module.training else None
        flat = hidden_states[0]
        q, k, v = (part.view(len(flat), -1, size) for part in lora_group(flat, inputs, drop))
        cos, sin = position_embeddings
        attended = segment_attention(
            q, k, v, segments or Segments(0, (len(flat),)), scale=float(scale), rotary=(cos[0], sin[0])
        )
        (y,) = lora_group(attended.view(len(flat), -1), last, drop)
        return y.unsqueeze(0), None

    return forward


def _attention_probe(model: nn.Module, module: nn.Module) -> Callable[[Forward], Tensor]:
    layer = lora_weights(cast("nn.Module", module.q_proj)) if hasattr(module, "q_proj") else None
    rotary = next((m for name, m in model.named_modules() if name.endswith("rotary_emb")), None)
    if layer is None or rotary is None:
        return lambda forward: torch.full((1,), float("nan"))
    hidden = _noise(1, 5, layer.weight.shape[1], like=layer.weight)
    position_embeddings = rotary(hidden, torch.arange(5).unsqueeze(0))

    def probe(forward: Forward) -> Tensor:
        out = forward(hidden_states=hidden, position_embeddings=position_embeddings, attention_mask=None)
        return cast("Tensor", out[0])

    return probe
