"""From 16-bit safetensors to bitsandbytes' own storage, through transformers."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from inhouse.errors import StepError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_bitsandbytes import Options

COPIED = (".json", ".jinja", ".txt", ".model")
"""Suffixes of the tokenizer's files, taken over byte by byte; the model writes its own config."""

PHASES = 3


class BitsAndBytesQuantizer:
    """Quantises every linear layer but the output head, which stays 16 bit as the embedding does."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Why it cannot run: the library is missing."""
        found = importlib.util.find_spec("bitsandbytes")
        return None if found else "bitsandbytes is not installed: pip install bitsandbytes"

    def quantize(self, step: Step, model: Artifact) -> None:
        """Writes ``model/bnb``: safetensors with a ``quantization_config``, and the tokenizer as it was.

        Notes ``type``, ``bits_per_weight`` (all bytes of the file over all weights of the model, the 16-bit
        embedding included) and ``bytes``. Raises ``StepError`` with what transformers said.
        """
        step.progress(0, PHASES, unit="part", note="quantising")
        try:
            quantized: Any = AutoModelForCausalLM.from_pretrained(
                model.path,
                quantization_config=self._settings(),
                dtype=torch.bfloat16,
                device_map={"": "cpu"},
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except Exception as error:  # transformers and bitsandbytes raise many kinds
            raise StepError(f"bitsandbytes cannot quantise the model: {error}", where=str(model.path)) from error
        layers = sum(type(each).__module__.startswith("bitsandbytes") for each in quantized.modules())
        if not layers:
            raise StepError("the model has no linear layer that bitsandbytes quantises", where=str(model.path))
        step.progress(1, PHASES, unit="part", note="writing the weights")
        quantized.save_pretrained(step.output)
        step.progress(2, PHASES, unit="part", note="copying the tokenizer")
        for file in sorted(model.path.iterdir()):
            wanted = file.suffix in COPIED and not file.name.endswith(".safetensors.index.json")
            if wanted and not (step.output / file.name).exists():
                shutil.copyfile(file, step.output / file.name)
        weights = sorted(step.output.glob("*.safetensors"))
        for file in weights:
            file.chmod(0o644)  # safetensors makes it readable to its owner only
        size = sum(file.stat().st_size for file in weights)
        parameters = sum(map(_elements, sorted(model.path.glob("*.safetensors"))))
        step.progress(PHASES, PHASES, unit="part")
        step.note(
            type=self.options.type,
            bits_per_weight=round(8 * size / parameters, 3),
            bytes=size,
            parameters=parameters,
            quantized_layers=layers,
        )

    def _settings(self) -> BitsAndBytesConfig:
        if self.options.type == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type=self.options.type,
            bnb_4bit_use_double_quant=self.options.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, self.options.compute_dtype),
        )


def _elements(file: Path) -> int:
    """Weights in a safetensors file, read from its header."""
    total = 0
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            total += torch.Size(tensors.get_slice(name).get_shape()).numel()
    return total
