"""Quantizer ``gguf``: convert exactly, then let llama.cpp quantise in a child process; and ``gguf-adapter``."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from inhouse.errors import ResourceError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_gguf import MATRIX_TYPES, PLAIN_TYPES, AdapterOptions, GgufOptions
from inhouse_gguf.adapter import convert_adapter
from inhouse_gguf.convert import commit, convert, exact_type
from inhouse_gguf.engine import quantize
from inhouse_gguf.facts import read_facts
from inhouse_gguf.families import FAMILIES, architecture
from inhouse_gguf.outside import convert_outside
from inhouse_gguf.source import open_source

NAME = "model.gguf"
ADAPTER = "adapter.gguf"


class GgufQuantizer:
    """Writes ``model.gguf``.

    The 16-bit GGUF that llama.cpp quantises from keeps the weights' own format (bfloat16 stays bfloat16:
    nothing is rounded twice). It lies in the step's checkpoints, so that a killed run does not convert again.
    """

    def __init__(self, options: GgufOptions) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Whether llama.cpp is installed (it is not loaded here) and can write the type."""
        if self.options.type in MATRIX_TYPES:
            return f"type {self.options.type} needs an importance matrix, which cannot be made yet: use q2_k or larger"
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: pip install llama-cpp-python (compiles; needs g++ and cmake)"
        return None

    def quantize(self, step: Step, model: Artifact) -> None:
        """``model`` (``model/hf``) to ``step.output/model.gguf``; notes type, bits_per_weight, bytes, tensor_types.

        Raises ``DataError`` for a model that cannot be converted, ``ResourceError`` without room on the disk,
        ``EngineError`` or ``StepError`` when llama.cpp (its converter included) fails.
        """
        target = step.output / NAME
        if self.options.type in PLAIN_TYPES:
            self._convert(step, model.path, target, self.options.type.upper())
        else:
            self._quantize(step, self._exact(step, model.path), target)
        facts = read_facts(target)
        step.note(
            type=self.options.type,
            bits_per_weight=facts.bits_per_weight,
            bytes=facts.bytes,
            parameters=facts.parameters,
            tensor_types=facts.tensor_types,
        )

    def _exact(self, step: Step, folder: Path) -> Path:
        """The GGUF without rounding: from an earlier, killed run, or converted now."""
        wanted = exact_type(folder)
        target = step.checkpoints / f"{wanted.lower()}.gguf"
        if not target.exists():  # it gets its name only when whole
            self._convert(step, folder, target, wanted)
        return target

    def _convert(self, step: Step, folder: Path, target: Path, wanted: str) -> None:
        _need_room(target.parent, sum(each.stat().st_size for each in folder.glob("*.safetensors")))

        def tell(done: int, total: int, name: str) -> None:
            step.progress(done, total, unit="B", note=f"converting {name}".strip())

        script = self.options.converter
        if script is not None and architecture(open_source(folder)) not in FAMILIES:
            convert_outside(script, folder, target, wanted, tell)
        else:
            convert(folder, target, wanted, tell)

    def _quantize(self, step: Step, source: Path, target: Path) -> None:
        _need_room(target.parent, source.stat().st_size // 2)
        aside = target.with_name(target.name + ".part")
        quantize(
            source,
            aside,
            self.options.type,
            self.options.threads,
            lambda done, total, name: step.progress(done, total, unit="tensor", note=f"quantising {name}"),
        )
        commit(aside, target)


class GgufAdapterQuantizer:
    """Writes ``adapter.gguf``, for llama.cpp's ``--lora`` beside a GGUF of the model that the adapter belongs to."""

    def __init__(self, options: AdapterOptions) -> None:
        self.options = options

    def quantize(self, step: Step, adapter: Artifact, base: Artifact) -> None:
        """``adapter`` (``adapter/peft``) to ``step.output/adapter.gguf``; only shapes are taken from ``base``.

        Notes type, bits_per_weight, bytes, parameters, matrices, ranks and alpha (as llama.cpp reads it).
        Raises ``DataError`` for an adapter that is not the base's or that a GGUF cannot say, and
        ``ResourceError`` without room on the disk.
        """
        target = step.output / ADAPTER
        _need_room(step.output, sum(each.stat().st_size for each in adapter.path.glob("*.safetensors")))
        told = convert_adapter(
            adapter.path,
            base.path,
            target,
            self.options.type.upper(),
            lambda done, total, name: step.progress(done, total, unit="B", note=f"converting {name}".strip()),
        )
        facts = read_facts(target)
        step.note(
            type=self.options.type,
            bits_per_weight=facts.bits_per_weight,
            bytes=facts.bytes,
            parameters=facts.parameters,
            matrices=told.matrices,
            ranks=list(told.ranks),
            alpha=told.alpha,
        )


def _need_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ResourceError(
            f"writing the GGUF needs {wanted / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free", where=str(folder)
        )
