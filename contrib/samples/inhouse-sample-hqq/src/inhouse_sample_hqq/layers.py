"""A linear layer with packed weights, and how transformers finds it again in a saved model.

Importing this module makes the method known to transformers, through the registry that it has for methods of
others; from then on ``from_pretrained`` opens what :class:`~inhouse_sample_hqq.quantizer.HqqQuantizer` saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from inhouse_sample_hqq import BITS, GROUP_SIZES
from inhouse_sample_hqq.hqq import dequantize, pack, quantize, unpack

METHOD = "inhouse-sample-hqq"
"""``quant_method`` in ``config.json``; transformers' own ``hqq`` means the files of the package hqq."""


class HqqLinear(nn.Module):
    """``nn.Linear`` whose weight is packed; it is unpacked for each call and dropped after it."""

    packed: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, linear: nn.Linear, bits: int, group_size: int) -> None:
        """Empty, in the shape of ``linear`` and with its bias."""
        super().__init__()
        (rows, columns), device = linear.weight.shape, linear.weight.device
        self.in_features, self.out_features, self.bits = columns, rows, bits
        self.register_buffer("packed", torch.empty(rows, columns * bits // 8, dtype=torch.uint8, device=device))
        for name in ("scale", "offset"):
            values = torch.empty(rows, columns // group_size, dtype=torch.float16, device=device)
            self.register_buffer(name, values)
        self.bias = linear.bias

    @classmethod
    def of(cls, linear: nn.Linear, bits: int, group_size: int) -> HqqLinear:
        """The layer quantised. Raises ``ValueError`` for weights that cannot be."""
        made = cls(linear, bits, group_size)
        levels, made.scale, made.offset = quantize(linear.weight, bits, group_size)
        made.packed = pack(levels, bits)
        return made

    def unpacked(self) -> torch.Tensor:
        """The weight, float32 (rows, columns)."""
        return dequantize(unpack(self.packed, self.bits), self.scale, self.offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, columns) to (…, rows)."""
        return nn.functional.linear(x, self.unpacked().to(x.dtype), self.bias)


@register_quantization_config(METHOD)
class HqqConfig(QuantizationConfigMixin):
    """``quantization_config`` in ``config.json``: ``layers`` are the names of the modules that are packed.

    Raises ``ValueError`` for what the quantizer does not write.
    """

    def __init__(self, bits: int, group_size: int, layers: Sequence[str], **_: Any) -> None:
        if bits not in BITS or group_size not in GROUP_SIZES:
            raise ValueError(f"no HQQ model: {bits!r} bits in groups of {group_size!r}")
        self.quant_method = METHOD  # type: ignore[assignment]
        self.bits, self.group_size, self.layers = bits, group_size, list(layers)


@register_quantizer(METHOD)
class HqqLoader(HfQuantizer):
    """Puts empty packed layers into a model, before transformers fills it from the files."""

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        config = self.quantization_config
        assert isinstance(config, HqqConfig)
        _check(checkpoint_files or (), len(config.layers))
        for name in config.layers:
            linear = model.get_submodule(name)
            if type(linear) is not nn.Linear or linear.in_features % config.group_size:
                raise ValueError(f"{name} is no layer that can be packed in groups of {config.group_size}")
            model.set_submodule(name, HqqLinear(linear, config.bits, config.group_size))

    def is_serializable(self) -> bool:
        """It can be saved again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """It is for answering."""
        return False


def _check(files: Sequence[str], layers: int) -> None:
    """Raises ``ValueError`` when the files lack tensors: transformers would make them up and only warn."""
    names: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    packed = [name.removesuffix(".packed") for name in names if name.endswith(".packed")]
    whole = [name for name in packed if {f"{name}.scale", f"{name}.offset"} <= names]
    if len(whole) != layers:
        raise ValueError(f"the files hold {len(whole)} whole packed layers of {layers}")
