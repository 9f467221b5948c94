"""What quantising to 4 bits does to a model's weights, tensor by tensor, by bitsandbytes itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import nn

from inhouse.errors import DataError


@frozen
class Rounded:
    """``layers`` are the names of the weights that are quantised. See :class:`inhouse.protocols.Rounded`."""

    type: str
    layers: frozenset[str]
    known: frozenset[str]
    every: int = 1

    def round(self, name: str, values: Any) -> Any:
        """``values`` (rows, columns) of the tensor ``name``, bfloat16 in an array of float32, after quantising.

        Raises ``DataError`` for a name that the model does not have.
        """
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        if name not in self.known:
            raise DataError(f"the model has no tensor {name}, which was to be rounded")
        if name not in self.layers:
            return values
        weight = torch.from_numpy(values).bfloat16()
        packed, state = quantize_4bit(weight, quant_type=self.type, compress_statistics=True)
        return dequantize_4bit(packed, state).float().numpy()


class BitsAndBytesRounding:
    """The rounding of the 4-bit type ``type``, as the quantizer `bitsandbytes` writes it by default."""

    def __init__(self, options: Any) -> None:
        self.type: str = options.type

    def probe(self) -> str | None:
        """Why it cannot run: the library is missing."""
        found = importlib.util.find_spec("bitsandbytes")
        return None if found else "bitsandbytes is not installed: pip install bitsandbytes"

    def open(self, folder: Path) -> Rounded:
        """For the model in ``folder``; every linear layer but the output head. Raises ``DataError`` for no model."""
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"this is no model that transformers knows: {error}", where=str(folder)) from error
        head = model.get_output_embeddings()
        linear = (name for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head)
        names = frozenset(name for name, _ in model.named_parameters())
        return Rounded(self.type, frozenset(f"{name}.weight" for name in linear), names)
