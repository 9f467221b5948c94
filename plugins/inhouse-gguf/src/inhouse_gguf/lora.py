"""Reads a LoRA adapter as peft saves it: adapter_config.json and adapter_model.safetensors, nothing else.

What a GGUF adapter cannot say is refused by :func:`open_adapter`: llama.cpp adds ``alpha / rank * lora_b @ lora_a`` to
matrices, and that is all. What can be merged into a base is more: :mod:`inhouse_gguf.merging`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from inhouse.errors import DataError
from inhouse_gguf.source import SourceTensor, read_json, read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before a module's name in the base."""

READ = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights", "bias"}
)
NEUTRAL = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
        *("fan_in_fan_out", "megatron_core", "loftq_config", "eva_config", "qalora_group_size", "runtime_config"),
    }
)
"""Keys that change nothing in what a trained adapter of linear layers computes; any other has to be empty."""

BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base's weights as they are."""

SCALED = re.compile(r"\^?(?:[\w-]|\\?\.)+")
"""Keys of ``rank_pattern`` and ``alpha_pattern`` that are taken: (ends of) module names, no other expressions."""

INSTEAD = 'the merged model can be converted: use = "gguf", with adapter = "FOLDER"'


@frozen
class Pair:
    """The two matrices of one module: ``a`` (rank, columns), ``b`` (rows, rank). It counts ``scale`` times."""

    module: str
    a: SourceTensor
    b: SourceTensor
    scale: float

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.a.shape[0]


@frozen
class Adapter:
    """``pairs`` in the file's order; ``rank`` and ``scale`` are the ones without a pattern."""

    folder: Path
    rank: int
    scale: float
    pairs: tuple[Pair, ...]


@frozen
class Scales:
    """What adapter_config.json says of ranks and of how often each pair counts."""

    rank: int
    alpha: float
    root: bool
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module, by peft's rule: the first pattern that fits the end of its name."""
        rank = int(_matching(self.ranks, module, self.rank))
        return rank, self.scale(_matching(self.alphas, module, self.alpha), rank)

    def scale(self, alpha: float, rank: int) -> float:
        """How often the product counts: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        return alpha / (math.sqrt(rank) if self.root else rank)


def open_adapter(folder: Path) -> Adapter:
    """Checks the folder and reads its headers (not its weights).

    Raises ``DataError`` for what is missing, broken, pickled, no LoRA, or more than a GGUF adapter can say.
    """
    scales = _scales(folder / CONFIG)
    path = weights_of(folder)
    halves: dict[str, dict[str, SourceTensor]] = {}
    for tensor in read_tensors(path):
        module, half = _parts(tensor.name, str(path))
        halves.setdefault(module, {})[half] = tensor
    if not halves:
        raise DataError("there is nothing in the adapter", where=str(path))
    pairs = tuple(make_pair(module, found, scales, str(path)) for module, found in halves.items())
    return Adapter(folder, scales.rank, scales.scale(scales.alpha, scales.rank), pairs)


def weights_of(folder: Path) -> Path:
    """The safetensors file of an adapter folder. Raises ``DataError`` where there is none."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").exists()
        why = "adapter_model.bin is a pickle, which can run code" if pickled else f"there is no {WEIGHTS}"
        raise DataError(f"{why}; safetensors are wanted", where=str(folder))
    return path


def _parts(name: str, where: str) -> tuple[str, str]:
    """The module that a tensor belongs to, and which half it is."""
    found = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", name)
    if found:
        return found[1], found[2]
    if "lora_magnitude_vector" in name:
        raise DataError("this is DoRA, which a GGUF adapter cannot express", where=where, hint=INSTEAD)
    if "lora_embedding_" in name:
        raise DataError(f"{name}: adapters of embeddings cannot be converted", where=where, hint=INSTEAD)
    raise DataError(f"{name} is no lora_A or lora_B of a linear layer", where=where, hint=INSTEAD)


def make_pair(module: str, found: Mapping[str, SourceTensor], scales: Scales, where: str) -> Pair:
    """The halves ``A`` and ``B`` of a module. Raises ``DataError`` unless both have the rank of ``scales``."""
    halves = [half for half in "AB" if half in found]
    if len(halves) < 2:
        there = f"lora_{halves[0]} only" if halves else "neither lora_A nor lora_B"
        raise DataError(f"{module} has {there}", where=where)
    a, b = found["A"], found["B"]
    rank, scale = scales.of(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise DataError(
            f"{module} has the shapes {list(a.shape)} and {list(b.shape)}; {CONFIG} says rank {rank}",
            where=where,
        )
    return Pair(module, a, b, scale)


def _scales(path: Path) -> Scales:
    """Reads adapter_config.json; everything that is not known to be harmless is refused."""
    found, where = read_json(path, of="adapter"), str(path)
    check_kind(found, where, INSTEAD)
    if found.get("use_dora"):
        raise DataError("this is DoRA, which a GGUF adapter cannot express", where=where, hint=INSTEAD)
    if found.get("bias", "none") != "none":
        raise DataError(f"bias = {found['bias']!r}: a GGUF adapter has no biases", where=where, hint=INSTEAD)
    check_keys(found, READ, "a GGUF adapter cannot say", where, INSTEAD)
    return read_scales(found, where)


def check_kind(found: Mapping[str, Any], where: str, hint: str) -> None:
    """Raises ``DataError`` for what is no LoRA, or one whose beginning changed the base's weights too."""
    if str(found.get("peft_type")).upper() != "LORA":
        raise DataError(f"peft_type is {found.get('peft_type')}; LORA can be converted", where=where)
    if found.get("init_lora_weights", True) not in BEGINNINGS:
        how = found["init_lora_weights"]
        raise DataError(f"init_lora_weights = {how!r} changes the base too", where=where, hint=hint)


def check_keys(found: Mapping[str, Any], known: Collection[str], cannot: str, where: str, hint: str) -> None:
    """Raises ``DataError`` for a key that says something and is not among ``known`` or ``NEUTRAL``."""
    for key, value in found.items():
        if value and key not in known and key not in NEUTRAL:
            raise DataError(f"{cannot} {key} = {repr(value)[:80]}", where=where, hint=hint)


def read_scales(found: Mapping[str, Any], where: str) -> Scales:
    """Ranks and scales of a checked adapter_config.json. Raises ``DataError`` for values that are none."""
    return Scales(
        rank=int(_number(found.get("r"), "r", where, whole=True)),
        alpha=_number(found.get("lora_alpha"), "lora_alpha", where),
        root=bool(found.get("use_rslora")),
        ranks=_patterns(found, "rank_pattern", where, whole=True),
        alphas=_patterns(found, "alpha_pattern", where),
    )


def _number(value: Any, key: str, where: str, *, whole: bool = False) -> float:
    """A number that float32 holds, and not 0: llama.cpp takes an alpha of 0 for none and counts the adapter once."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 1e-9 <= value <= 1e9:
        raise DataError(
            f"{key} = {value!r} should be {'an integer' if whole else 'a number'} between 1e-9 and 1e9", where=where
        )
    return value


def _patterns(found: Mapping[str, Any], key: str, where: str, *, whole: bool = False) -> dict[str, float]:
    patterns = found.get(key) or {}
    if not isinstance(patterns, dict):
        raise DataError(f"{key} is no object", where=where)
    for name in patterns:
        if not SCALED.fullmatch(name):
            raise DataError(f"{key}: {name!r} is an expression; only (ends of) module names are taken", where=where)
    return {name: _number(value, f"{key}.{name}", where, whole=whole) for name, value in patterns.items()}


def _matching(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^").replace("\\", "")
        whole_only = pattern.startswith("^")
        if module == name or (not whole_only and module.endswith("." + name)):
            return value
    return otherwise
