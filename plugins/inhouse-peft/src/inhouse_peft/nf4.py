"""Frozen weights that bitsandbytes holds in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn


@frozen(eq=False)
class Nf4Weight:
    """The weight (out, in) of ``layer``, which computes in ``dtype``."""

    layer: Any
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def whole(self) -> Tensor:
        """Dequantised anew: as large as the weight was, so nobody should keep it."""
        from bitsandbytes.functional import dequantize_4bit

        packed = self.layer.weight
        found: Tensor = dequantize_4bit(packed.data, packed.quant_state)
        return found.to(self.dtype)


def nf4_weight(layer: nn.Module) -> Nf4Weight | None:
    """The weight of bitsandbytes' ``Linear4bit``; None for any other layer."""
    held: Any = getattr(layer, "weight", None)
    state, dtype = getattr(held, "quant_state", None), getattr(layer, "compute_dtype", None)
    if state is None or dtype is None:
        return None
    return Nf4Weight(layer, torch.Size(state.shape), dtype, held.device)
