"""Puts fast forwards into a transformers model, module by module, wherever they are proven to compute the same.

Modules are recognised by what they hold and accepted by what they compute: a fast forward stays only if it
agrees with the module's own on random input. All else keeps transformers' own code. How linear layers are computed is
said by who trains them (:class:`Linears`): ``dense.py`` trains whole weights, inhouse-peft adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
from attrs import define
from torch import Tensor, nn

from inhouse.errors import StepError

from .attention import register, segment_attention
from .norm import rms_norm
from .packing import Segments

Forward = Callable[..., Any]
Probe = Callable[[Forward], Tensor]
"""What a forward gives on random input."""


class Weight(Protocol):
    """What a fast forward asks of a layer's weight (out, in), which may be held in another form."""

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the products."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        ...


class Linears(Protocol):
    """How linear layers are computed. Each method gives None where a layer has to keep its own code.

    The flag that the forwards take says whether the module is in training.
    """

    def together(self, layers: Sequence[nn.Module]) -> Callable[[Tensor, bool], Sequence[Tensor]] | None:
        """All ``layers`` on one input (M, in), with one output (M, out_i) each."""
        ...

    def gated(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> Callable[[Tensor, bool], Tensor] | None:
        """down(silu(gate(x)) * up(x)) for x (M, in)."""
        ...

    def weight(self, layer: nn.Module) -> Weight | None:
        """The weight of ``layer``."""
        ...


_OTHERS = "take a base whose layers are plain attention and MLPs, such as Llama, Qwen, Mistral or Gemma 3"


@define
class Patched:
    """How many modules got a fast forward; ``undo`` restores the model's own code."""

    linears: int = 0
    norms: int = 0
    blocks: int = 0
    attentions: int = 0

    def undo(self, model: nn.Module) -> None:
        """Removes every forward that was set on ``model``."""
        for module in model.modules():
            module.__dict__.pop("forward", None)
        model.set_attn_implementation("sdpa")  # type: ignore[operator]


def speed_up(model: nn.Module, linears: Linears) -> Patched:
    """Changes ``model`` (transformers' causal model) in place.

    Its forward then takes joined batches: (1, T) ids, positions, and the keyword ``segments``. Without that keyword
    attention is the model's own, so that it can still generate with ``set_attn_implementation("sdpa")``. Raises
    ``StepError`` for a model whose texts see each other in a joined batch: one with layers that are no attention, or
    with attention that cannot be replaced.
    """
    done = Patched()
    try:
        model.set_attn_implementation("sdpa")  # type: ignore[operator]
    except ValueError as error:  # Gemma 2, whose attention has soft-capping
        raise StepError(f"{type(model).__name__} cannot be trained: {error}", hint=_OTHERS) from error
    for name, module in model.named_modules():
        if type(module).__name__.endswith("RMSNorm"):
            done.norms += _set(module, _norm_forward(module), partial(_norm_probe, module))
        elif all(hasattr(module, each) for each in _MLP):
            done.blocks += _set(module, _mlp_forward(module, linears), partial(_mlp_probe, module, linears))
        elif name.endswith("self_attn"):
            forward = _attention_forward(module, linears)
            done.attentions += _set(module, forward, partial(_attention_probe, model, module, linears))
    model.set_attn_implementation(register())  # type: ignore[operator]
    if not (getattr(model, "_supports_attention_backend", False) and _keeps_apart(model)):
        raise StepError(
            f"{type(model).__name__} does not keep texts of a joined batch apart, so it cannot be trained",
            hint=_OTHERS,
        )
    return done


def _keeps_apart(model: Any) -> bool:
    """Whether what a text becomes in a joined batch is the same beside another one."""
    length = 6
    ids = torch.arange(2 * length, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    layout = {"position_ids": ids.new_tensor([[*range(length)] * 2]), "segments": Segments(0, (length, length))}
    with _evaluating(model):
        one, other = (
            model.base_model(input_ids=each, use_cache=False, **layout).last_hidden_state[0, length:].float()
            for each in (ids, torch.cat((ids[:, length:], ids[:, length:]), 1))
        )
    most = 3e-2 * float(one.abs().max().nan_to_num())
    return torch.allclose(one, other, rtol=0.0, atol=most, equal_nan=True)  # a loss that is NaN is told later


def _set(module: nn.Module, forward: Forward | None, make_probe: Callable[[], Probe | None]) -> int:
    """Sets ``forward`` on the instance if it computes what the module's own does; 1 if it was set."""
    probe = make_probe() if forward is not None else None
    if forward is None or probe is None:  # not a module of that form, or with layers that keep their own code
        return 0
    with _evaluating(module), _nothing_at_zero(module):
        try:
            own = probe(module.forward).float()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, KeyError, AttributeError, RuntimeError):  # asks for more than is known here
            return 0
        fast = probe(forward)
    tolerance = 1e-4 if fast.dtype == torch.float32 else 3e-2
    if not torch.allclose(own, fast.float(), rtol=tolerance, atol=tolerance * float(own.abs().max().nan_to_num())):
        return 0
    module.forward = forward
    return 1


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


@contextmanager
def _nothing_at_zero(module: nn.Module) -> Iterator[None]:
    """Inside, parameters that begin at zero (a layer that adds nothing yet, an adapter) hold noise instead."""
    at_zero = [each for each in module.parameters() if each.is_floating_point() and not each.any()]
    for each in at_zero:
        each.copy_(_noise(*each.shape, like=each) * 0.1)
    try:
        yield
    finally:
        for each in at_zero:
            each.zero_()


def _noise(*shape: int, like: Weight) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(like.device, like.dtype)


# --- norms ------------------------------------------------------------------------------------------


def _norm_forward(module: nn.Module) -> Forward | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or eps is None:
        return None
    return lambda hidden_states: rms_norm(hidden_states, weight, float(eps))


def _norm_probe(module: nn.Module) -> Probe:
    weight = cast("Tensor", module.weight)
    return lambda forward: forward(_noise(2, 3, weight.shape[0], like=weight) * 3)


# --- gated MLP --------------------------------------------------------------------------------------

_MLP = ("gate_proj", "up_proj", "down_proj")


def _mlp_forward(module: nn.Module, linears: Linears) -> Forward | None:
    if getattr(module, "residual_dropout", None):
        return None
    gated = linears.gated(*(getattr(module, name) for name in _MLP))
    if gated is None:
        return None
    return lambda x: gated(x.reshape(-1, x.shape[-1]), module.training).view(x.shape)


def _mlp_probe(module: nn.Module, linears: Linears) -> Probe:
    weight = cast("Weight", linears.weight(cast("nn.Module", module.gate_proj)))
    return lambda forward: forward(_noise(1, 3, weight.shape[1], like=weight))


# --- attention --------------------------------------------------------------------------------------

_INPUTS, _OUTPUT = ("q_proj", "k_proj", "v_proj"), "o_proj"
_OWN_ATTENTION = ("sliding_window", "attention_dropout", "residual_dropout", "clip_qkv")
"""What a probe does not show: it is short, its numbers are small and nothing is dropped in it."""


def _attention_forward(module: nn.Module, linears: Linears) -> Forward | None:
    if not all(hasattr(module, name) for name in (*_INPUTS, _OUTPUT)):
        return None
    inputs, last = linears.together([getattr(module, name) for name in _INPUTS]), linears.together([module.o_proj])  # type: ignore[list-item]
    size, scale = getattr(module, "head_dim", None), getattr(module, "scaling", None)
    if inputs is None or last is None or size is None or scale is None:
        return None
    config = getattr(module, "config", None)
    if any(getattr(each, name, None) for name in _OWN_ATTENTION for each in (module, config)):
        return None  # the registered function is told the window by the model's own code
    own = module.forward

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        **others: Any,
    ) -> tuple[Tensor, Any]:
        if segments is None:
            asked = {"hidden_states": hidden_states, "position_embeddings": position_embeddings}
            return cast("tuple[Tensor, Any]", own(**asked, attention_mask=attention_mask, **others))
        flat = hidden_states[0]
        q, k, v = (part.view(len(flat), -1, size) for part in inputs(flat, module.training))
        cos, sin = (table[0] for table in position_embeddings)
        attended = segment_attention(q, k, v, segments, scale=float(scale), rotary=(cos, sin))
        (y,) = last(attended.view(len(flat), -1), module.training)
        return y.unsqueeze(0), None

    return forward


def _attention_probe(model: nn.Module, module: nn.Module, linears: Linears) -> Probe | None:
    weight = linears.weight(cast("nn.Module", module.q_proj))
    rotary = next((m for name, m in model.named_modules() if name.endswith("rotary_emb")), None)
    if weight is None or rotary is None:
        return None
    hidden = _noise(1, 5, weight.shape[1], like=weight)
    try:
        tables = rotary(hidden, torch.arange(5, device=hidden.device).unsqueeze(0))
    except TypeError:  # of another kind for each layer
        return None
    if tables[0].shape[-1] != module.head_dim:  # a part of each head only is rotated
        return None

    def probe(forward: Forward) -> Tensor:
        found = forward(
            hidden_states=hidden, position_embeddings=tables, attention_mask=None, segments=Segments(0, (5,))
        )
        return cast("Tensor", found[0])

    return probe
