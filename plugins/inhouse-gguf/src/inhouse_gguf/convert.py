"""safetensors to GGUF at 16 or 32 bits, tensor by tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from attrs import frozen
from gguf import GGUF_DEFAULT_ALIGNMENT, GGUFType, GGUFWriter, LlamaFileType, get_tensor_name_map, size_label

from inhouse.errors import DataError
from inhouse_gguf.families import Family, family_of
from inhouse_gguf.merging import Change, open_merging
from inhouse_gguf.source import STORED, Source, open_source, unknown_dtype
from inhouse_gguf.tokenizer import read_vocabulary, write_vocabulary
from inhouse_gguf.values import TYPES, Converted

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all, and the tensor at hand."""

KEPT = ("position_embd.weight",)
"""Matrices that stay float32: llama.cpp adds GPT-2's positions to float32 as they are, and quantises none."""

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
}


@frozen
class Planned:
    """A tensor to write: its name in GGUF and its values, read while writing."""

    name: str
    shape: tuple[int, ...]
    wanted: str
    load: Callable[[], Converted]


def exact_type(folder: Path) -> str:
    """The smallest of BF16, F16 and F32 that holds every matrix of the folder without rounding."""
    tensors = open_source(folder).tensors.values()
    stored = {each.dtype for each in tensors if len(each.shape) > 1 and each.dtype in STORED}
    return stored.pop() if len(stored) == 1 else "F32"


def convert(folder: Path, target: Path, wanted: str, progress: Progress, adapter: Path | None = None) -> None:
    """Writes ``folder`` (``model/hf``) as the GGUF file ``target`` with matrices as ``wanted`` (F32, F16, BF16).

    Vectors and learned positions stay float32, as llama.cpp wants them. The LoRA ``adapter`` (``adapter/peft``) is
    merged in float32 while the base is read, and each weight rounded once. The file appears under its name only when
    it is whole. Raises ``DataError`` for what cannot be converted or merged, before anything is written, and for
    values that are no numbers or beyond the format.
    """
    source = open_source(folder)
    family = family_of(source)
    changes: Mapping[str, Change] = {}
    if adapter is not None:
        merging = open_merging(adapter, source, family)
        merging.check(family, places(source, family))
        source, changes = merging.source, merging.changes
    tensors = _plan(source, family, wanted, changes)
    rows = next(each.shape[0] for each in tensors if each.name == "token_embd.weight")
    vocabulary = read_vocabulary(folder, rows)
    aside = target.with_name(target.name + ".part")
    writer = GGUFWriter(aside, family.arch_name)
    try:
        _describe(writer, source, tensors, wanted, strips=vocabulary.strips)
        family.parameters(writer, source)
        writer.add_vocab_size(rows)
        write_vocabulary(writer, folder, vocabulary)
        write_tensors(writer, tensors, progress)
        writer.close()
        commit(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)


def write_header(folder: Path, target: Path, wanted: str) -> None:
    """Writes a GGUF as :func:`convert` would, without a vocabulary and with a hole for the weights.

    It is as long as the whole file and takes no room on a disk that knows holes.
    """
    source = open_source(folder)
    family = family_of(source)
    tensors = _plan(source, family, wanted, {})
    writer = GGUFWriter(target, family.arch_name)
    try:
        _describe(writer, source, tensors, wanted)
        family.parameters(writer, source)
        total = _write_infos(writer, tensors)
    finally:
        writer.close()
    os.truncate(target, target.stat().st_size + total + GGUF_DEFAULT_ALIGNMENT * (len(tensors) + 1))


def commit(aside: Path, target: Path) -> None:
    """Makes ``aside`` durable and gives it its name."""
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    aside.replace(target)


def places(source: Source, family: Family) -> dict[str, str]:
    """The name in GGUF of each tensor that is converted, in the file's order; ``DataError`` for one without."""
    names = get_tensor_name_map(family.arch, source.need(family.layers))
    known: dict[str, str] = {}
    for name in source.tensors:
        if name.endswith(family.skip) or (family.is_tied(source) and name == "lm_head.weight"):
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise DataError(f"{name} has no place in a {family.arch_name} GGUF", where=str(source.folder))
        if source.tensors[name].dtype not in STORED:
            raise DataError(unknown_dtype(name, source.tensors[name].dtype), where=str(source.folder))
        known[name] = found
    return known


def _plan(source: Source, family: Family, wanted: str, changes: Mapping[str, Change]) -> list[Planned]:
    """What will be written, in the file's order; checks that each tensor has a place. ``changes`` by tensor name."""
    planned: list[Planned] = []
    for name, found in places(source, family).items():
        shape = family.shape(source.tensors[name])
        kept = "F32" if len(shape) == 1 or found in KEPT else wanted

        def load(name: str = name, found: str = found, kept: str = kept) -> Converted:
            stored = source.tensors[name]
            plain = Converted(found, family.load(source, stored), stored.dtype, kept, shift=family.shift(name))
            return changes[name].apply(source, family, plain) if name in changes else plain

        planned.append(Planned(found, shape, kept, load))
    for made in family.made(source):
        planned.append(Planned(made.name, made.values.shape, "F32", partial(_same, made)))
    if not any(each.name == "token_embd.weight" for each in planned):
        raise DataError("there is no token embedding among the tensors", where=str(source.folder))
    return planned


def _same(made: Converted) -> Converted:
    return made


def _describe(writer: GGUFWriter, source: Source, tensors: list[Planned], wanted: str, *, strips: bool = False) -> None:
    """The ``general.*`` keys."""
    count = sum(int(np.prod(each.shape)) for each in tensors)
    label = size_label(count, count, 0, 0)
    writer.add_type(GGUFType.MODEL)
    writer.add_name(_name(source, label, strips))
    writer.add_size_label(label)
    writer.add_file_type(FILE_TYPES[wanted])
    writer.add_quantization_version(2)  # GGML_QNT_VERSION of ggml.h


def _name(source: Source, label: str, strips: bool) -> str:
    """The model's name, with "phi-3" in it if special tokens swallow the spaces after them, and else without.

    llama.cpp (``llama-vocab.cpp``) knows of that by the name alone, and loads no file so named whose vocabulary
    lacks the tokens that Phi-3 has.
    """
    found = str(source.config.get("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    name = found or f"{source.config.get('model_type', 'model')} {label}"
    said = re.search("phi-?3", name, re.IGNORECASE)
    if strips:
        return name if said else f"phi-3 {name}"
    return re.sub("phi-?3", "phi 3", name, flags=re.IGNORECASE)


def _write_infos(writer: GGUFWriter, tensors: list[Planned]) -> int:
    """All that stands before the tensors; returns how many bytes they have."""
    total = 0
    for each in tensors:
        size = int(np.prod(each.shape)) * (4 if each.wanted == "F32" else 2)
        total += size
        # any dtype but uint8, which would mean that the shape counts bytes
        writer.add_tensor_info(each.name, each.shape, np.dtype(np.float32), size, raw_dtype=TYPES[each.wanted])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return total


def write_tensors(writer: GGUFWriter, tensors: list[Planned], progress: Progress) -> None:
    """Header, keys and tensors, each tensor read when its turn comes; tells ``progress``."""
    total, done = _write_infos(writer, tensors), 0
    for each in tensors:
        progress(done, total, each.name)
        values = each.load()
        writer.write_tensor_data(cast(Any, values))
        done += values.nbytes
    progress(total, total, "")
