"""The vector store ``exact``: every vector in memory, compared with each query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from attrs import frozen

from inhouse.protocols import Matrix
from inhouse_vectors.vectors import Hit, Ids, Vectors, checked, one, ranked, similarities, unit


@frozen
class _Held:
    """Ascending ids, and their unit vectors, float32 (n, dimension); never changed, only replaced."""

    ids: Ids
    vectors: Vectors


class ExactStore:
    """A :class:`inhouse.protocols.VectorStore` that keeps nothing on the disk; 1.5 kB a vector of 384 numbers.

    A search reads what was there when it began; a change replaces it. NaN and infinity raise ``DataError``, shapes and
    ids that do not fit ``ValueError``.
    """

    def __init__(self, options: object = None) -> None:
        self._held: _Held | None = None
        self._dimension = 0
        self._changing = Lock()

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        """An empty index; always False, since nothing was kept."""
        if dimension < 1:
            raise ValueError(f"dimension {dimension}")
        with self._changing:
            self._dimension = dimension
            self._held = _Held(np.empty(0, np.int64), np.empty((0, dimension), np.float32))
        return False

    def rebuild(self, ids: Sequence[int], vectors: Matrix, *, generation: int) -> None:
        """Replaces the index by these vectors."""
        with self._changing:
            self._opened()
            self._held = self._made(ids, vectors)

    def add(self, ids: Sequence[int], vectors: Matrix) -> None:
        """Adds vectors, in place of those whose id is there."""
        with self._changing:
            held, new = self._opened(), self._made(ids, vectors)
            kept = ~np.isin(held.ids, new.ids)
            together = np.concatenate([held.ids[kept], new.ids])
            order = np.argsort(together)
            self._held = _Held(together[order], np.concatenate([held.vectors[kept], new.vectors])[order])

    def delete(self, ids: Sequence[int]) -> None:
        """Forgets ids; those that are not there are passed over."""
        with self._changing:
            held = self._opened()
            kept = ~np.isin(held.ids, np.asarray(ids, np.int64))
            self._held = _Held(held.ids[kept], held.vectors[kept])

    def search(self, vector: Matrix, k: int, *, among: Any = None) -> list[Hit]:
        """Up to k (id, cosine similarity in steps of 1e-6), best first, equal ones by id."""
        held = self._opened()
        query = one(vector, self._dimension)
        ids, scores = held.ids, similarities(held.vectors, query)
        if among is not None:
            chosen = np.isin(ids, np.asarray(among, np.int64))
            ids, scores = ids[chosen], scores[chosen]
        return ranked(ids, scores, k)

    def count(self) -> int:
        """How many vectors can be found."""
        return len(self._opened().ids)

    def flush(self, *, generation: int) -> None:
        """Nothing to keep."""
        self._opened()

    def close(self) -> None:
        """Frees the memory."""
        with self._changing:
            self._held = None

    def _opened(self) -> _Held:
        if self._held is None:
            raise ValueError("the vector store is not open: call open(folder, ...) first")
        return self._held

    def _made(self, ids: Sequence[int], vectors: Matrix) -> _Held:
        rows = unit(vectors, self._dimension)
        keys = checked(ids, len(rows))
        order = np.argsort(keys)
        return _Held(keys[order], rows[order])
