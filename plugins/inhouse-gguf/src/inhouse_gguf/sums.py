"""Sums of squares over what goes into each weight, added up batch by batch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from inhouse.errors import DataError
from inhouse_gguf.imatrix import Entry

Floats = NDArray[np.float32]


@define
class Sums:
    """By the name of a weight: sums of squares, float64 (matrices, columns), and counts of rows, int64 (matrices,)."""

    squares: dict[str, NDArray[np.float64]] = field(factory=dict)
    counts: dict[str, NDArray[np.int64]] = field(factory=dict)

    def add(self, name: str, inputs: Floats, matrices: tuple[int, int] = (1, 1)) -> None:
        """Adds ``inputs`` (n3, n2, rows, columns) of one product.

        ``matrices`` are the weight's ne[3] and ne[2]: input (i3, i2) goes through matrix (i3 % ne[3], i2 % ne[2]).
        Raises ``DataError`` for values that are no finite numbers.
        """
        n3, n2, rows, columns = inputs.shape
        squares, counts = self._of(name, matrices[0] * matrices[1], columns)
        if squares.shape[0] == 1:
            squares[0] += _summed(name, inputs.reshape(-1, columns))
            counts[0] += n3 * n2 * rows
            return
        for i3 in range(n3):
            for i2 in range(n2):
                at = (i3 % matrices[0]) * matrices[1] + i2 % matrices[1]
                squares[at] += _summed(name, inputs[i3, i2])
                counts[at] += rows

    def add_chosen(self, name: str, inputs: Floats, chosen: NDArray[np.int32], experts: int) -> None:
        """Adds ``inputs`` (tokens, slots, columns), of which expert ``chosen[t, s]`` gets row (t, s % slots).

        ``chosen`` is (tokens, experts used). Raises ``DataError`` for values that are no finite numbers.
        """
        slots, columns = inputs.shape[1:]
        squares, counts = self._of(name, experts, columns)
        for expert in np.unique(chosen):
            tokens, used = np.nonzero(chosen == expert)
            squares[expert] += _summed(name, inputs[tokens, used % slots])
            counts[expert] += len(tokens)

    def _of(self, name: str, matrices: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if name not in self.squares:
            self.squares[name] = np.zeros((matrices, columns))
            self.counts[name] = np.zeros(matrices, np.int64)
        return self.squares[name], self.counts[name]

    def entries(self) -> dict[str, Entry]:
        """What an importance matrix keeps of it."""
        return {
            name: Entry(sums.astype(np.float32), self.counts[name].astype(np.float32))
            for name, sums in self.squares.items()
        }

    def save(self, path: Path, done: int, key: str) -> None:
        """Keeps the sums and how many batches are in them; ``key`` says of which text. Replaces the file at once."""
        aside = path.with_name(path.name + ".new")
        parts = {f"{kind}:{name}": each for kind in ("squares", "counts") for name, each in getattr(self, kind).items()}
        with aside.open("wb") as file:
            np.savez(file, done=np.int64(done), key=np.str_(key), **parts)  # numbers only: nothing is pickled
        aside.replace(path)


def _summed(name: str, rows: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):  # told below, with the name
        sums: Floats = np.square(rows).sum(0)
    if not np.isfinite(sums).all():
        raise DataError(f"what goes into {name} is beyond float32 or no number: the model is broken")
    return sums


def load(path: Path, key: str) -> tuple[Sums, int]:
    """The sums kept in ``path`` and how many batches are in them; nothing and 0 without a whole file of ``key``."""
    sums = Sums()
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return Sums(), 0
            for each in kept.files:
                kind, _, name = each.partition(":")
                if name:
                    getattr(sums, kind)[name] = kept[each]
            return sums, int(kept["done"])
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile):
        return Sums(), 0
