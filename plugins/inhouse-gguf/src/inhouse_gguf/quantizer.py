"""Quantizer ``gguf``: convert exactly, then let llama.cpp quantise in a child process; and ``gguf-adapter``."""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from pathlib import Path

from attrs import asdict, evolve

from inhouse.errors import DataError, ResourceError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_gguf import AUTO, MATRIX_TYPES, PLAIN_TYPES, AdapterOptions, GgufOptions
from inhouse_gguf.adapter import convert_adapter
from inhouse_gguf.convert import commit, convert, exact_type
from inhouse_gguf.engine import quantize
from inhouse_gguf.facts import read_facts
from inhouse_gguf.families import FAMILIES, architecture
from inhouse_gguf.importance import NAME as MATRIX
from inhouse_gguf.importance import importance
from inhouse_gguf.ladder import choose, climb
from inhouse_gguf.merging import INSTEAD
from inhouse_gguf.outside import convert_outside
from inhouse_gguf.source import open_source
from inhouse_gguf.trained import check_base

NAME = "model.gguf"
ADAPTER = "adapter.gguf"


class GgufQuantizer:
    """Writes ``model.gguf``.

    The 16-bit GGUF that llama.cpp quantises from keeps the weights' own format (bfloat16 stays bfloat16:
    nothing is rounded twice). It lies in the step's checkpoints, and so does the importance matrix, so that a killed
    run makes neither again. With ``adapter`` the 16-bit GGUF is written with it merged; no merged folder is made.
    """

    def __init__(self, options: GgufOptions) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Whether llama.cpp is installed (it is not loaded here) and can write the type."""
        if self.options.type in MATRIX_TYPES and self.options.imatrix == "off":
            return f"type {self.options.type} needs an importance matrix, and imatrix is off: auto, or q2_k and larger"
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: pip install llama-cpp-python (compiles; needs g++ and cmake)"
        return None

    def quantize(
        self,
        step: Step,
        model: Artifact,
        chats: Artifact | None = None,
        corpus: Artifact | None = None,
        base: Artifact | None = None,
    ) -> None:
        """``model`` (``model/hf``) to ``step.output/model.gguf``; notes type, bits_per_weight, bytes, tensor_types.

        An importance matrix is computed over ``chats`` (``text/chat``) or ``corpus`` (``text/corpus``) and kept
        beside the model as ``model.imatrix``; see :func:`inhouse_gguf.importance.importance` for when, and what it
        notes. With type ``auto`` every type of the ladder is measured (:mod:`inhouse_gguf.ladder`), against ``base``
        too, the first model of the run; notes ``ladder``.

        Raises ``DataError`` for a model that cannot be converted, a matrix that is not the model's, or one that is
        needed and cannot be computed, and an adapter that is not the model's or cannot be merged; ``ResourceError``
        without room on the disk; ``EngineError`` or ``StepError`` when llama.cpp (its converter included) fails, and
        ``StepError`` when no type of the ladder holds.
        """
        target, kind = step.output / NAME, self.options.type
        if self.options.adapter is not None:
            check_base(self.options.adapter, model)
        if kind in PLAIN_TYPES:
            self._convert(step, model.path, target, kind.upper())
        else:
            make = partial(self._make, step, self._exact(step, model.path), model, chats, corpus)
            if kind == AUTO:
                rungs = climb(step, make, (model, base or model), chats)
                kind = choose(rungs).type
                step.notice(f"type {kind} is taken")
                step.note(ladder=[asdict(each) for each in rungs])
            make(kind, target)
        facts = read_facts(target)
        step.note(
            type=kind,
            bits_per_weight=facts.bits_per_weight,
            bytes=facts.bytes,
            parameters=facts.parameters,
            tensor_types=facts.tensor_types,
        )

    def _make(
        self,
        step: Step,
        source: Path,
        model: Artifact,
        chats: Artifact | None,
        corpus: Artifact | None,
        kind: str,
        target: Path,
    ) -> None:
        """Quantises ``source`` to ``kind``, with the importance matrix beside it where there is one."""
        matrix = importance(step, evolve(self.options, type=kind), source, model, chats, corpus)
        self._quantize(step, source, kind, target, matrix)
        if matrix:
            shutil.copyfile(matrix, target.with_name(MATRIX))

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

        script, adapter = self.options.converter, self.options.adapter
        if script is None or architecture(open_source(folder)) in FAMILIES:
            convert(folder, target, wanted, tell, adapter)
        elif adapter is None:
            convert_outside(script, folder, target, wanted, tell)
        else:
            raise DataError(
                f"{script.name} converts this architecture, and cannot merge an adapter",
                where=str(adapter),
                hint=INSTEAD,
            )

    def _quantize(self, step: Step, source: Path, kind: str, target: Path, matrix: Path | None) -> None:
        _need_room(target.parent, source.stat().st_size // 2)
        aside = target.with_name(target.name + ".part")
        quantize(
            source,
            aside,
            kind,
            self.options.threads,
            lambda done, total, name: step.progress(done, total, unit="tensor", note=f"quantising {name}"),
            matrix,
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
