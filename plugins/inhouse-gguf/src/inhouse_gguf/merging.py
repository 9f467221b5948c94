"""A LoRA adapter of peft merged into its base, tensor by tensor, while the base is read for conversion.

W + s B A in float32, and for DoRA m (W + s B A) / |W + s B A| with the norm of each row (Liu et al. 2024,
arXiv:2402.09353): what :func:`inhouse_peft.adapter.merge` and peft's ``merge_and_unload`` compute, rounded once to the
file's format. Memory: one tensor's pair and a block of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen

from inhouse.errors import DataError
from inhouse_gguf.families import Family
from inhouse_gguf.lora import (
    CONFIG,
    PREFIX,
    READ,
    WEIGHTS,
    Pair,
    Scales,
    check_keys,
    check_kind,
    make_pair,
    read_scales,
    weights_of,
)
from inhouse_gguf.source import Source, SourceTensor, read_json, read_tensors
from inhouse_gguf.values import Array, Converted, add_to, as_float32, to_bfloat16

KNOWN = READ | {"use_dora", "modules_to_save"}
"""Keys of adapter_config.json that are followed here; others have to be empty or neutral."""

INSTEAD = "merge it with peft (merge_and_unload, save_pretrained), and convert that folder"
RIGHT = "the model that the adapter was trained on"

AT_ONCE = 1 << 16
"""Values computed at once: what is between two roundings stays in the processor's cache."""

HEAD, EMBEDDINGS = "lm_head.weight", ("embed_tokens.weight", "wte.weight")
"""The head's name in the folder, and how those of embeddings end."""

_HALVES = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_embedding_A": "embedding A",
    "lora_embedding_B": "embedding B",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
"""How peft ends the names of an adapter's tensors."""

_PART = re.compile(rf"(.+)\.({'|'.join(map(re.escape, _HALVES))})")


@frozen
class Change:
    """What is done to one matrix: the ``pair`` is added; ``embedding``: with A and B transposed and changed places.

    ``magnitude``, shape (rows,), is DoRA's.
    """

    pair: Pair
    magnitude: SourceTensor | None = None
    embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product, as GGUF has the matrix."""
        shape = self.pair.b.shape[0], self.pair.a.shape[1]
        return shape[::-1] if self.embedding else shape

    def apply(self, source: Source, family: Family, plain: Converted) -> Converted:
        """``plain``, the matrix as it is converted without an adapter, merged. Reads the adapter's values."""
        a, b = _numbers(self.pair.a), _numbers(self.pair.b)
        if self.embedding:
            a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
        name = self.pair.module + ".weight"
        magnitude = None
        if self.magnitude is not None:
            magnitude = family.arrange(source, name, _numbers(self.magnitude).reshape(-1))
        return Merged(plain, a, np.ascontiguousarray(family.arrange(source, name, b)), self.pair.scale, magnitude)


@frozen
class Merging:
    """A base with an adapter: ``source`` has the tensors that the adapter brings whole in their places; ``changes`` are
    those of matrices, by the tensor's name; ``where`` is the adapter's file."""

    source: Source
    changes: Mapping[str, Change]
    where: str

    def check(self, family: Family, places: Collection[str]) -> None:
        """Raises ``DataError`` unless each changed matrix has the adapter's shape and a place in the GGUF.

        ``places`` are the names of the base's tensors that have one.
        """
        for name, change in self.changes.items():
            module, shape = change.pair.module, family.shape(self.source.tensors[name])
            if name not in places:
                raise DataError(f"the adapter changes {module}, which is not converted", where=self.where)
            if change.shape != shape:
                raise DataError(_differs(module, change.shape, shape, self.source), where=self.where, hint=RIGHT)
            magnitudes = int(np.prod(change.magnitude.shape)) if change.magnitude else shape[0]
            if magnitudes != shape[0]:
                raise DataError(f"{module} has {magnitudes} magnitudes and {shape[0]} rows", where=self.where)


class Merged(Converted):
    """A matrix that gets ``scale`` times ``b`` (rows, rank) times ``a`` (rank, columns) while it is written."""

    def __init__(self, plain: Converted, a: Array, b: Array, scale: float, magnitude: Array | None) -> None:
        super().__init__(plain.name, plain.values, plain.source, plain.wanted, plain.hint)
        self.a, self.b, self.scale, self.magnitude = a, b, np.float32(scale), magnitude

    def blocks(self) -> Iterator[Array]:
        """Blocks of rows in the wanted format. Raises ``DataError`` for a value that is none, or out of its range."""
        count, columns = self.values.shape
        rows = max(1, AT_ONCE // columns)
        sums = np.empty((min(rows, count), columns), np.float32)
        scratch = np.empty(sums.shape, np.uint32)
        for start in range(0, count, rows):
            block = slice(start, min(start + rows, count))
            size = block.stop - start
            whole = self._merged(block, sums[:size], scratch[:size])
            if not np.isfinite(whole).all():
                raise DataError(f"{self.name} has values that are no numbers once the adapter is merged")
            yield to_bfloat16(whole, scratch[:size]) if self.wanted == "BF16" else self.rounded(whole)

    def _merged(self, block: slice, sums: Array, scratch: Array) -> Array:
        """Some rows in float32, in ``sums``."""
        with np.errstate(all="ignore"):  # what comes of it is looked at
            np.matmul(self.b[block], self.a, out=sums)
            sums *= self.scale
            add_to(sums, self.values[block], self.source, scratch)
            if self.magnitude is not None:
                norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))
                sums *= (self.magnitude[block] / norms)[:, None]
        return sums


def open_merging(folder: Path, base: Source, family: Family) -> Merging:
    """The adapter ``folder`` on ``base``. Checks both and reads their headers (not their weights).

    Raises ``DataError`` for what is missing, broken, pickled, another model's, or cannot be merged by adding to single
    tensors, with the name of the key or tensor.
    """
    config, where = read_json(folder / CONFIG, of="adapter"), str(folder / CONFIG)
    check_kind(config, where, INSTEAD)
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        raise DataError(f"bias = {config['bias']!r} is not known", where=where)
    check_keys(config, KNOWN, "cannot be merged tensor by tensor:", where, INSTEAD)
    scales, dora = read_scales(config, where), bool(config.get("use_dora"))
    path = weights_of(folder)
    parts: dict[str, dict[str, SourceTensor]] = {}
    whole: dict[str, SourceTensor] = {}
    for tensor in read_tensors(path):
        if not tensor.name.startswith(PREFIX):
            raise DataError(f"{tensor.name} is none of a peft adapter's, which begin with {PREFIX}", where=str(path))
        inner = tensor.name.removeprefix(PREFIX)
        found = _PART.fullmatch(inner)
        if found:
            parts.setdefault(found[1], {})[_HALVES[found[2]]] = tensor
        else:
            name = _of(base, family, inner.replace(".base_layer.", "."), str(path))
            whole[name] = _instead(name, tensor, base, str(path))
    if not parts and not whole:
        raise DataError("there is nothing in the adapter", where=str(path))
    _check_saved(config, whole, where)
    changes = {
        _of(base, family, f"{module}.weight", str(path)): _change(module, each, scales, dora, str(path))
        for module, each in parts.items()
    }
    return Merging(evolve(base, tensors={**base.tensors, **whole}), changes, str(path))


def _of(base: Source, family: Family, name: str, where: str) -> str:
    """The base's name for the tensor that transformers calls ``name``.

    Raises ``DataError`` where the base has none, and for one of two tensors that are one: what peft trains is not what
    it merges then.
    """
    if family.is_tied(base) and (name == HEAD or name.endswith(EMBEDDINGS)):
        raise DataError(
            f"the adapter changes {name.removesuffix('.weight')}, and embedding and head are one in this model",
            where=where,
            hint=INSTEAD,
        )
    for known in (name, name.removeprefix("transformer.")):  # the hub's GPT-2 has names without this
        if known in base.tensors:
            return known
    raise DataError(f"the adapter changes {name}, which {base.folder} does not have", where=where, hint=RIGHT)


def _instead(name: str, tensor: SourceTensor, base: Source, where: str) -> SourceTensor:
    """A tensor that the adapter brings whole (``modules_to_save``, biases), under the name it has in the base."""
    shape = base.tensors[name].shape
    if shape != tensor.shape:
        hint = f"{RIGHT}; with a vocabulary made longer: {INSTEAD}"
        raise DataError(_differs(name, tensor.shape, shape, base), where=where, hint=hint)
    return evolve(tensor, name=name)


def _check_saved(config: Mapping[str, Any], whole: Collection[str], where: str) -> None:
    """Raises ``DataError`` for a module to save of which the file has nothing."""
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(each, str) for each in saved):
        raise DataError("modules_to_save is no list of names", where=where)
    for each in saved:
        if not any(f"{each}." in name for name in whole):  # peft, too, compares ends of names
            raise DataError(f"modules_to_save names {each[:80]}, and {WEIGHTS} has nothing of it", where=where)


def _change(module: str, found: Mapping[str, SourceTensor], scales: Scales, dora: bool, where: str) -> Change:
    magnitude = found.get("magnitude")
    if (magnitude is not None) != dora:
        raise DataError(f"{module} has {'no' if dora else 'a'} lora_magnitude_vector; use_dora = {dora}", where=where)
    halves = {half: found[f"embedding {half}"] for half in "AB" if f"embedding {half}" in found}
    if halves and (dora or "A" in found or "B" in found):
        raise DataError(f"{module} is an embedding and more; embeddings are merged with lora alone", where=where)
    if halves:
        return Change(make_pair(module, halves, scales, where), embedding=True)
    return Change(make_pair(module, found, scales, where), magnitude)


def _differs(name: str, own: tuple[int, ...], shape: tuple[int, ...], base: Source) -> str:
    return f"{name} is {_shown(own)} in the adapter and {_shown(shape)} in {base.folder}"


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _numbers(tensor: SourceTensor) -> Array:
    values = as_float32(tensor.load(), tensor.dtype)
    if not np.isfinite(values).all():
        raise DataError(f"{tensor.name} has values that are no numbers", where=str(tensor.where.data_range.filename))
    return values
