"""The vector store: the file while nothing changes, and a private copy of it from the first change to ``flush``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import apsw
import numpy as np

from inhouse.errors import RecipeError, ResourceError
from inhouse.protocols import Matrix
from inhouse_sample_sqlitevec import Options, files, search
from inhouse_sample_sqlitevec.table import LARGEST_DIMENSION, Table, connected
from inhouse_vectors.vectors import Hit, checked, one, unit


class SqliteVecStore:
    """A :class:`inhouse.protocols.VectorStore` over sqlite-vec; exact cosine similarity.

    Calls from several threads take turns. NaN and infinity raise ``DataError``, shapes and ids that do not fit
    ``ValueError``, and a file that cannot be written ``ResourceError`` (the store then serves on from its copy, and the
    old file is whole).
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._folder = Path()
        self._dimension = 0
        self._table: Table | None = None
        self._changing = Lock()  # held for a whole change, so that changes do not overlap
        self._using = Lock()  # held while the table is read, changed or swapped

    def probe(self) -> str | None:
        """Why it cannot run here: SQLite does not take the extension."""
        try:
            connected("", self.options.cache).close()
        except (OSError, apsw.Error) as error:
            return f"sqlite-vec cannot be loaded: {error}"
        return None

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        """Opens the index kept in ``folder``.

        False, and an empty index, when it is missing, damaged, or of another generation, dimension or version of
        sqlite-vec. Raises ``RecipeError`` for vectors longer than sqlite-vec takes.
        """
        if dimension < 1:
            raise ValueError(f"dimension {dimension}")
        if dimension > LARGEST_DIMENSION:
            raise RecipeError(
                f"sqlite-vec takes vectors of up to {LARGEST_DIMENSION} numbers, and the embedder gives {dimension}",
                hint='another vector_store, such as "hnswlib"',
            )
        cache = self.options.cache
        with self._changing:
            self._folder, self._dimension = Path(folder), dimension
            found = files.load(self._folder, dimension=dimension, generation=generation, cache=cache)
            self._swap(found or Table.empty(dimension, cache))
        return found is not None

    def rebuild(self, ids: Sequence[int], vectors: Matrix, *, generation: int) -> None:
        """Replaces the index by these vectors; the old one answers searches until the new one is there."""
        with self._changing, self._told():
            self._opened()
            rows = unit(vectors, self._dimension)
            keys = checked(ids, len(rows))
            order = np.argsort(keys)
            fresh = Table.empty(self._dimension, self.options.cache)
            fresh.put(keys[order], rows[order])
            self._swap(fresh)
            self._save(generation)

    def add(self, ids: Sequence[int], vectors: Matrix) -> None:
        """Adds vectors in the private copy (:meth:`flush` keeps them); an id that is there is replaced."""
        with self._changing, self._told():
            self._opened()
            rows = unit(vectors, self._dimension)
            keys = checked(ids, len(rows))
            with self._using:
                self._changeable().put(keys, rows)

    def delete(self, ids: Sequence[int]) -> None:
        """Forgets ids in the private copy (:meth:`flush` keeps it); those that are not there are passed over."""
        with self._changing, self._told():
            self._opened()
            keys = np.asarray(ids, dtype=np.int64)
            with self._using:
                self._changeable().remove(keys)

    def search(self, vector: Matrix, k: int, *, among: Any = None) -> list[Hit]:
        """Up to k (id, cosine similarity in steps of 1e-6), best first, equal ones by id.

        Of the ascending ids ``among`` if given. Fewer than k only when fewer are left.
        """
        with self._using:
            table = self._opened()
            return search.nearest(table, one(vector, self._dimension), k, search.allowed(among))

    def count(self) -> int:
        """How many vectors can be found."""
        with self._using:
            return self._opened().count()

    def flush(self, *, generation: int) -> None:
        """Writes the index durably as that of ``generation``."""
        with self._changing, self._told():
            self._opened()
            self._save(generation)

    def close(self) -> None:
        """Frees everything; what was not flushed is gone."""
        with self._changing:
            self._swap(None)

    def _opened(self) -> Table:
        if self._table is None:
            raise ValueError("the vector store is not open: call open(folder, ...) first")
        return self._table

    def _changeable(self) -> Table:
        """The table, as a private copy from now on."""
        table = self._opened()
        if not table.is_private:
            self._table = table.copy(self.options.cache)
            table.close()
        return self._opened()

    def _swap(self, table: Table | None) -> None:
        with self._using:
            old, self._table = self._table, table
        if old is not None:
            old.close()

    def _save(self, generation: int) -> None:
        """Writes the table and goes on with the file; its private copy is freed."""
        with self._using:
            table = self._changeable()
            if table.is_wasteful():
                self._table = table.compacted(self.options.cache)
                table.close()
            path = files.save(self._opened(), self._folder, generation=generation)
        self._swap(Table.opened(path, self._dimension, self.options.cache))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the disk refuses, as an error for the user."""
        try:
            yield
        except (OSError, apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError) as error:
            raise ResourceError(
                f"cannot write the vector index: {getattr(error, 'strerror', None) or error}",
                where=str(self._folder),
                hint="free some space or make the folder writable; searching goes on from memory",
            ) from error
