"""The dense leg: cosine similarity to every vector in a small base, through the vector store in a large one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inhouse.errors import ResourceError
from inhouse.protocols import VectorStore
from inhouse_knowledge.reader import Reader

Hit = tuple[int, float]
Vectors = npt.NDArray[np.float32]
DIGITS = 6  # float32 sums differ from here on: equal vectors must count as equal


class DenseLeg(Protocol):
    """Finds chunks near a vector."""

    def search(self, vector: Vectors, k: int) -> list[Hit]:
        """Up to k (chunk id, cosine similarity) for a unit vector, best first, equal ones by id."""
        ...

    def close(self) -> None: ...


class ExactLeg:
    """All vectors in memory: 30 MB for 20,000 of 384 numbers."""

    def __init__(self, reader: Reader) -> None:
        self._ids, self._matrix = reader.vectors()

    def search(self, vector: Vectors, k: int) -> list[Hit]:
        """See :class:`DenseLeg`."""
        scores = np.round(self._matrix @ vector, DIGITS)
        kept = np.arange(len(scores))
        if k < len(scores):  # the k-th best and all that equal it, so that ties do not depend on the partition
            kept = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
        order = kept[np.lexsort((self._ids[kept], -scores[kept]))][:k]
        return [(int(self._ids[at]), float(scores[at])) for at in order]

    def close(self) -> None:
        """Nothing is held outside memory."""


class StoreLeg:
    """The index kept in ``folder``, made anew from the file's vectors when it is not theirs.

    In a folder that cannot be written the index lives in memory.
    """

    def __init__(self, reader: Reader, store: VectorStore, folder: Path) -> None:
        self._store = store
        fits = store.open(folder, dimension=reader.dimension, generation=reader.stamp)
        if not fits or store.count() != reader.count():
            log = logging.getLogger(__name__)
            log.warning("the vector index in %s is missing or outdated and is made again", folder)
            try:
                store.rebuild(*_all(reader), generation=reader.stamp)
            except ResourceError as error:
                log.warning("%s", error.message)

    def search(self, vector: Vectors, k: int) -> list[Hit]:
        """See :class:`DenseLeg`."""
        return self._store.search(vector, k)

    def close(self) -> None:
        """Frees the index."""
        self._store.close()


def build(reader: Reader, store: VectorStore, folder: Path) -> None:
    """Makes the index of all vectors in ``folder``, durably. Raises ``ResourceError`` when it cannot be written."""
    store.open(folder, dimension=reader.dimension, generation=reader.stamp)
    store.rebuild(*_all(reader), generation=reader.stamp)
    store.close()


def _all(reader: Reader) -> tuple[list[int], Vectors]:
    ids, matrix = reader.vectors()
    return [int(key) for key in ids], matrix
