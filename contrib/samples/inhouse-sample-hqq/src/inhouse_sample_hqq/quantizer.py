"""From ``model/hf`` to ``model/hqq``."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from inhouse.errors import StepError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_sample_hqq import QuantizerOptions

COPIED = (".json", ".jinja", ".txt", ".model")
"""Suffixes of the tokenizer's files, taken over byte by byte; the model writes its own config."""


class HqqQuantizer:
    """Quantises every linear layer but the output head, which stays as it is, as the embedding does."""

    def __init__(self, options: QuantizerOptions) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Why it cannot run: a library is missing."""
        return missing("torch", "transformers", "safetensors")

    def quantize(self, step: Step, model: Artifact) -> None:
        """Writes safetensors with a ``quantization_config`` in ``config.json``, and the tokenizer as it was.

        Each quantised layer has the tensors ``packed``, ``scale`` and ``offset`` (see :mod:`.hqq`). Layers whose
        width is no multiple of the group size are left as they are, and named. Notes ``type``,
        ``bits_per_weight`` (all bytes of the files over all weights, the embedding included), ``bytes``,
        ``parameters`` and ``quantized_layers``. Raises ``StepError`` for a model without such layers.
        """
        from inhouse_sample_hqq.layers import HqqConfig, HqqLinear

        bits, size = self.options.bits, self.options.group_size
        whole, layers = self._open(model.path)
        left = [name for name in layers if whole.get_submodule(name).in_features % size]
        fitting = [name for name in layers if name not in left]
        if not fitting:
            raise StepError(f"the model has no linear layer that is cut into groups of {size}", where=str(model.path))
        if left:
            step.notice(f"{len(left)} layers stay as they are: {size} does not divide their width ({left[0]} …)")
        parameters = sum(each.numel() for each in whole.parameters())
        for name in step.track(fitting, unit="layer"):
            try:
                whole.set_submodule(name, HqqLinear.of(whole.get_submodule(name), bits, size))
            except ValueError as error:
                raise StepError(f"{name} {error}", where=str(model.path)) from error
        whole.config.quantization_config = HqqConfig(bits, size, fitting)
        whole.save_pretrained(step.output)
        written = self._finish(model.path, step.output)
        step.note(
            type=f"hqq{bits}",
            bits_per_weight=round(8 * written / parameters, 3),
            bytes=written,
            parameters=parameters,
            quantized_layers=len(fitting),
        )

    def _open(self, folder: Path) -> tuple[Any, list[str]]:
        """The model in the precision of its files, and the names of the layers to quantise."""
        from torch import nn
        from transformers import AutoModelForCausalLM

        try:
            whole: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
        except Exception as error:  # transformers raises many kinds
            raise StepError(f"transformers cannot open the model: {error}", where=str(folder)) from error
        if getattr(whole.config, "quantization_config", None) is not None:
            raise StepError("the model is quantised already", where=str(folder))
        head = whole.get_output_embeddings()
        return whole, [name for name, each in whole.named_modules() if type(each) is nn.Linear and each is not head]

    def _finish(self, source: Path, output: Path) -> int:
        """Copies the tokenizer; returns the bytes of the weights."""
        for file in sorted(source.iterdir()):
            wanted = file.suffix in COPIED and not file.name.endswith(".safetensors.index.json")
            if wanted and not (output / file.name).exists():
                shutil.copyfile(file, output / file.name)
        weights = list(output.glob("*.safetensors"))
        for file in weights:
            file.chmod(0o644)  # safetensors makes it readable to its owner only
        return sum(file.stat().st_size for file in weights)


def missing(*modules: str) -> str | None:
    """What to install for the first of ``modules`` that is not there."""
    lacking = [each for each in modules if importlib.util.find_spec(each) is None]
    package = lacking[0].replace("_", "-") if lacking else ""
    return f"{package} is not installed: pip install {package}" if lacking else None
