"""The vector store: one graph, one folder, readers in parallel, one change at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from inhouse.errors import ResourceError
from inhouse.protocols import Matrix
from inhouse_hnswlib import Options, files
from inhouse_hnswlib.graph import Graph
from inhouse_hnswlib.lock import ReadWriteLock
from inhouse_vectors.vectors import checked, one, unit


class HnswlibStore:
    """A :class:`inhouse.protocols.VectorStore` over hnswlib; cosine similarity; ids in [1, 2^48).

    Call :meth:`open` first. Every method may be called from any thread. Vectors need no unit length;
    NaN and infinity raise ``DataError``, shapes and ids that do not fit ``ValueError``, and a file that
    cannot be written ``ResourceError`` (the index in memory then serves on, the old file is whole).
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._folder = Path()
        self._graph: Graph | None = None
        self._dimension = 0
        self._changing = Lock()  # held for a whole change, so that changes do not overlap
        self._lock = ReadWriteLock()  # writing only while the graph itself changes or is swapped

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        """Opens the index kept in ``folder``.

        False, and an empty index, when it is missing, damaged, or of another generation, dimension, metric,
        hnswlib version or build options: :meth:`rebuild` then.
        """
        if dimension < 1:
            raise ValueError(f"dimension {dimension}")
        with self._changing:
            self._folder, self._dimension = Path(folder), dimension
            graph = files.load(self._folder, self.options, dimension=dimension, generation=generation)
            self._swap(graph or Graph.empty(self.options, dimension))
            return graph is not None

    def rebuild(self, ids: Sequence[int], vectors: Matrix, *, generation: int) -> None:
        """Replaces the index by these vectors; the old one answers searches until the new one is there."""
        with self._changing:
            self._opened()
            rows = unit(vectors, self._dimension)
            keys = checked(ids, len(rows)).tolist()
            graph = Graph.empty(self.options, self._dimension, len(keys))
            graph.add(keys, rows)
            self._swap(graph)
            self._save(generation)

    def add(self, ids: Sequence[int], vectors: Matrix) -> None:
        """Adds vectors in memory (:meth:`flush` keeps them); an id that is there is replaced."""
        with self._changing:
            graph = self._opened()
            rows = unit(vectors, self._dimension)
            checked(ids, len(rows))
            with self._lock.writing():
                graph.add(ids, rows)
            self._compact()

    def delete(self, ids: Sequence[int]) -> None:
        """Forgets ids in memory (:meth:`flush` keeps it); unknown ids are passed over."""
        with self._changing:
            graph = self._opened()
            with self._lock.writing():
                graph.delete(ids)
            self._compact()

    def search(self, vector: Matrix, k: int, *, among: Any = None) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity in steps of 1e-6), best first, equal ones by id.

        Of the ascending ids ``among`` if given. Fewer than k only when fewer are left.
        """
        self._lock.begin_reading()
        try:
            return self._opened().search(one(vector, self._dimension), k, among)
        finally:
            self._lock.end_reading()

    def count(self) -> int:
        """How many vectors can be found."""
        self._lock.begin_reading()
        try:
            return len(self._opened())
        finally:
            self._lock.end_reading()

    def flush(self, *, generation: int) -> None:
        """Writes the index durably as that of ``generation``."""
        with self._changing:
            self._opened()
            self._save(generation)

    def close(self) -> None:
        """Frees the memory; what was not flushed is gone."""
        with self._changing:
            self._swap(None)

    def _opened(self) -> Graph:
        if self._graph is None:
            raise ValueError("the vector store is not open: call open(folder, ...) first")
        return self._graph

    def _swap(self, graph: Graph | None) -> None:
        with self._lock.writing():
            self._graph = graph

    def _compact(self) -> None:
        graph = self._opened()
        if graph.is_wasteful():
            self._swap(graph.compacted())

    def _save(self, generation: int) -> None:
        try:
            files.save(self._opened(), self._folder, generation=generation)
        except OSError as error:
            raise ResourceError(
                f"cannot write the vector index: {error.strerror or error}",
                where=str(self._folder),
                hint="free some space or make the folder writable; searching goes on from memory",
            ) from error
