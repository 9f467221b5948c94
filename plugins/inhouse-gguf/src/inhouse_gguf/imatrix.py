"""Importance matrices as llama.cpp keeps them: for each weight, the mean square of what its columns are multiplied by.

The file is the GGUF that llama.cpp's ``llama-imatrix`` writes and ``llama-quantize --imatrix`` reads: tensors
``NAME.in_sum2`` (sums of squares, ne = columns x matrices) and ``NAME.counts`` (rows summed, ne = 1 x matrices), both
F32, and keys ``imatrix.*``. A weight has one matrix, or as many as it has experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from attrs import field, frozen
from gguf import GGUFWriter, Keys
from numpy.typing import NDArray

from inhouse.errors import DataError
from inhouse_gguf.convert import commit
from inhouse_gguf.header import Header, read_header

SUMS, COUNTS = ".in_sum2", ".counts"
LARGEST_COUNT = 2.0**53
"""More rows than this no float64 counts one by one."""

CHUNK = 512
"""Tokens in what llama.cpp calls a chunk."""


@frozen
class Entry:
    """Of one weight: ``sums`` of squares, shape (matrices, columns); ``counts`` of rows, shape (matrices,)."""

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]

    def means(self) -> NDArray[np.float32]:
        """Mean squares in one row, matrix after matrix, as ``llama_model_quantize`` takes them.

        A matrix that nothing went through (an expert that was never chosen) counts 1 everywhere, as in llama.cpp.
        """
        seen = self.counts[:, None]
        means = np.where(seen > 0, self.sums / np.maximum(seen, 1e-30), 1.0)
        return np.ascontiguousarray(means.reshape(-1), np.float32)


@frozen
class Matrix:
    """Entries by the names of weights; ``tokens`` of text behind them (0: not known), ``datasets`` as named there."""

    entries: Mapping[str, Entry]
    tokens: int = 0
    datasets: tuple[str, ...] = field(default=())


class _Writer(GGUFWriter):
    """An importance matrix has no architecture."""

    def add_architecture(self) -> None:
        """Nothing."""


def write_matrix(matrix: Matrix, target: Path) -> None:
    """Writes ``target``, in the order of the names; it appears under its name only when it is whole."""
    aside = target.with_name(target.name + ".part")
    writer = _Writer(aside, "")
    try:
        writer.add_type("imatrix")
        writer.add_array(Keys.IMatrix.DATASETS, list(matrix.datasets))
        writer.add_uint32(Keys.IMatrix.CHUNK_COUNT, -(-matrix.tokens // CHUNK))
        writer.add_uint32(Keys.IMatrix.CHUNK_SIZE, CHUNK)
        writer.add_uint32("inhouse.imatrix.tokens", matrix.tokens)
        for name, entry in sorted(matrix.entries.items()):
            writer.add_tensor(name + SUMS, entry.sums)
            writer.add_tensor(name + COUNTS, entry.counts[:, None])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        commit(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)


def read_matrix(path: Path) -> Matrix:
    """Reads a file of :func:`write_matrix` or ``llama-imatrix``. Raises ``DataError`` for any other, or broken, one."""
    where = str(path)
    header = _open(path)
    kind = header.keys.get("general.type")
    if kind != "imatrix":
        raise DataError(f"is a GGUF of type {kind!r}, no importance matrix", where=where)
    entries: dict[str, Entry] = {}
    for name in header.tensors:
        if name.endswith(SUMS):
            weight = name.removesuffix(SUMS)
            if weight + COUNTS not in header.tensors:
                raise DataError(f"has sums for {weight} and no counts", where=where)
            entries[weight] = _entry(header, weight)
    if not entries:
        raise DataError("holds no importance of any weight", where=where)
    tokens, datasets = header.keys.get("inhouse.imatrix.tokens"), header.keys.get(Keys.IMatrix.DATASETS)
    return Matrix(
        entries,
        tokens if isinstance(tokens, int) else 0,
        tuple(datasets) if isinstance(datasets, list) else (),
    )


def _open(path: Path) -> Header:
    try:
        return read_header(path)
    except DataError as error:
        if "no GGUF" in error.message:
            error.hint = "llama-imatrix --output-format gguf  (the older .dat files are not read)"
        raise


def _entry(header: Header, weight: str) -> Entry:
    where = str(header.path)
    sums, counts = header.floats(weight + SUMS), header.floats(weight + COUNTS)
    if len(sums) % len(counts):
        raise DataError(f"{weight} has {len(sums)} sums and {len(counts)} counts", where=where)
    if not (np.isfinite(sums).all() and (sums >= 0).all()):
        raise DataError(f"{weight} has sums of squares that are negative or no numbers", where=where)
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts <= LARGEST_COUNT).all()):
        raise DataError(f"{weight} has counts that cannot be: {counts.min():g} to {counts.max():g}", where=where)
    if not counts.any():
        raise DataError(f"{weight} was counted 0 times", where=where)
    return Entry(sums.reshape(len(counts), -1), counts)


def check_fits(matrix: Matrix, path: Path, model: Header, needed: frozenset[str]) -> None:
    """That a matrix from the file ``path`` is one of the GGUF ``model``, and has an entry for each of ``needed``.

    Raises ``DataError`` that names the weight: unknown to the model, of another shape, or without an entry.
    """
    where, hint = str(path), "a matrix that was computed from this model"
    for name, entry in matrix.entries.items():
        info = model.tensors.get(name)
        if info is None:
            raise DataError(f"is of another model: this one has no {name}", where=where, hint=hint)
        columns, matrices = info.shape[0], info.shape[2] if len(info.shape) > 2 else 1
        if entry.sums.size != columns * matrices:
            found = " x ".join(map(str, (*info.shape[:1], *info.shape[2:3])))
            raise DataError(
                f"is of another model: it has {entry.sums.size} values for {name}, this one {found}",
                where=where,
                hint=hint,
            )
    missing = sorted(needed - matrix.entries.keys())
    if missing:
        raise DataError(
            f"is of another model, or not whole: nothing for {missing[0]} ({len(missing)} of {len(needed)} weights)",
            where=where,
            hint=hint,
        )
