"""A LoRA adapter of peft to a GGUF adapter of llama.cpp."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from attrs import frozen
from gguf import GGUFType, GGUFWriter, Keys

from inhouse.errors import DataError
from inhouse_gguf.convert import FILE_TYPES, Planned, Progress, commit, places, write_tensors
from inhouse_gguf.families import Family, family_of
from inhouse_gguf.lora import Adapter, Pair, open_adapter
from inhouse_gguf.source import Source, SourceTensor, open_source
from inhouse_gguf.values import Array, Converted, as_float32


@frozen
class Told:
    """What was written: ``alpha`` as llama.cpp reads it, the ranks that occur, the number of matrices changed."""

    alpha: float
    ranks: tuple[int, ...]
    matrices: int


def convert_adapter(folder: Path, base: Path, target: Path, wanted: str, progress: Progress) -> Told:
    """Writes the adapter ``folder`` (``adapter/peft``) of ``base`` (``model/hf``) as the GGUF adapter ``target``.

    ``wanted`` is F32 or F16. Of the base only config.json and the shapes count. llama.cpp multiplies
    ``lora_b @ lora_a`` by alpha / rank, with one alpha in the file and each pair's own rank: alpha is set so that
    this is peft's scale (alpha / sqrt(rank) for rsLoRA), and what patterns add to it goes into ``lora_b``.
    The file appears under its name only when it is whole. Raises ``DataError`` for an adapter that is not the
    base's or cannot be said in GGUF, before anything is written, and for values that are no numbers.
    """
    adapter, source = open_adapter(folder), open_source(base)
    family = family_of(source)
    alpha = float(np.float32(adapter.scale * adapter.rank))
    tensors = _plan(adapter, source, family, alpha, wanted)
    aside = target.with_name(target.name + ".part")
    writer = GGUFWriter(aside, family.arch_name)
    try:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_file_type(FILE_TYPES[wanted])
        write_tensors(writer, tensors, progress)
        writer.close()
        commit(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)
    return Told(alpha, tuple(sorted({pair.rank for pair in adapter.pairs})), len(adapter.pairs))


def _plan(adapter: Adapter, source: Source, family: Family, alpha: float, wanted: str) -> list[Planned]:
    """Two tensors for each pair; checks that the base has the matrix and that its shape is the pair's."""
    where, known = str(adapter.folder), places(source, family)
    planned = []
    for pair in adapter.pairs:
        weight = pair.module + ".weight"
        if weight not in known:
            raise DataError(_no_place(pair, source), where=where)
        shape, own = family.shape(source.tensors[weight]), (pair.b.shape[0], pair.a.shape[1])
        if own != shape:
            raise DataError(
                f"{pair.module} is {_shown(own)} in the adapter and {_shown(shape)} in {source.folder}",
                where=where,
                hint="give the model that the adapter was trained on",
            )
        name = known[weight]
        load_a = partial(_as_it_is, f"{name}.lora_a", pair.a, wanted)
        load_b = partial(_arranged, f"{name}.lora_b", pair, source, family, alpha, wanted)
        planned.append(Planned(f"{name}.lora_a", pair.a.shape, wanted, load_a))
        planned.append(Planned(f"{name}.lora_b", pair.b.shape, wanted, load_b))
    return planned


def _no_place(pair: Pair, source: Source) -> str:
    if pair.module == "lm_head":
        return "the adapter changes lm_head, which is one with the embedding in this model"
    return f"the adapter changes {pair.module}, which {source.folder} does not have"


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _as_it_is(name: str, tensor: SourceTensor, wanted: str) -> Converted:
    return Converted(name, _numbers(tensor), "F32", wanted, hint="type = f32")


def _arranged(name: str, pair: Pair, source: Source, family: Family, alpha: float, wanted: str) -> Converted:
    """``lora_b`` with its rows in the order of the base's rows, scaled by what ``alpha`` / rank leaves."""
    rest = np.float32(pair.scale * pair.rank / alpha)  # 1 without patterns
    values = family.arrange(source, pair.module + ".weight", _numbers(pair.b) * rest)
    return Converted(name, values, "F32", wanted, hint="type = f32")


def _numbers(tensor: SourceTensor) -> Array:
    values = as_float32(tensor.load(), tensor.dtype)
    if not np.isfinite(values).all():
        raise DataError(f"{tensor.name} has values that are no numbers", where=str(tensor.where.data_range.filename))
    return values
