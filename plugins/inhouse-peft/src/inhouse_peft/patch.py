"""Puts the fast forwards of LoRA layers into a peft model, as ``inhouse_torch.patch`` proves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen
from torch import Tensor, nn

from inhouse_torch.patch import Patched
from inhouse_torch.patch import speed_up as speed_up_blocks

from .dropout import Dropout
from .linear import LoraWeights, Weight, lora_forward, lora_group, lora_mlp, lora_weights


@frozen
class LoraLinears:
    """See :class:`inhouse_torch.patch.Linears`; takes plain LoRA layers only."""

    dropout: Dropout

    def together(self, layers: Sequence[nn.Module]) -> Callable[[Tensor, bool], Sequence[Tensor]] | None:
        """One narrow product for all ``layers``."""
        found = _lora(layers)
        return None if found is None else lambda x, training: lora_group(x, found, self._dropped(training))

    def gated(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> Callable[[Tensor, bool], Tensor] | None:
        """All of the block as one function."""
        found = _lora([gate, up, down])
        if found is None:
            return None
        first, second, last = found
        return lambda x, training: lora_mlp(x, first, second, last, self._dropped(training))

    def weight(self, layer: nn.Module) -> Weight | None:
        """The frozen one."""
        found = lora_weights(layer)
        return found.weight if found else None

    def _dropped(self, training: bool) -> Dropout | None:
        return self.dropout if training else None


def _lora(layers: Sequence[nn.Module]) -> list[LoraWeights] | None:
    found = [weights for layer in layers if (weights := lora_weights(layer)) is not None]
    return found if len(found) == len(layers) else None


def speed_up(model: nn.Module, dropout: Dropout) -> Patched:
    """Changes ``model`` (transformers' causal model holding peft's LoRA layers) in place.

    Its forward then takes joined batches: (1, T) ids, positions, and the keyword ``segments``.
    """
    count = 0
    for module in model.modules():
        if (forward := lora_forward(module, dropout)) is not None:
            module.forward = forward
            count += 1
    done = speed_up_blocks(model, LoraLinears(dropout))
    done.linears = count
    return done
