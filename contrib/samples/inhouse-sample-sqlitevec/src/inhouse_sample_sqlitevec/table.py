"""One SQLite database with a ``vec0`` table of vectors. Not safe under threads.

All vectors have length 1, so that the order by Euclidean distance is the order by cosine. A zero vector gets its length
from a further axis, on which queries are zero: sqlite-vec's own cosine would divide by zero there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import apsw
import numpy as np
import sqlite_vec  # type: ignore[import-untyped]

from inhouse_vectors.vectors import Ids, Vectors

LARGEST_K = 4096
"""More neighbours sqlite-vec does not look for."""
LARGEST_DIMENSION = 8191
"""Its limit of 8192, less the axis of zero vectors."""
CHUNK = 256  # vectors that sqlite-vec keeps together; also what the smallest file has room for
PAGE = 16_384  # bytes; a chunk is read a quarter faster than with SQLite's 4,096


class Table:
    """Vectors by id. Raises ``apsw.Error`` where SQLite does."""

    def __init__(self, connection: apsw.Connection, dimension: int) -> None:
        self._connection = connection
        self.dimension = dimension

    @classmethod
    def empty(cls, dimension: int, cache: int) -> Table:
        """A private one of its own, in memory up to ``cache`` MiB and in a temporary file beyond."""
        made = cls(connected("", cache), dimension)
        made._connection.execute(f"PRAGMA page_size = {PAGE}")
        made._connection.execute("CREATE TABLE facts(name TEXT PRIMARY KEY, value) WITHOUT ROWID")
        made._connection.execute(
            f"CREATE VIRTUAL TABLE vectors USING vec0(id INTEGER PRIMARY KEY, vector FLOAT[{dimension + 1}],"
            f" chunk_size={CHUNK})"
        )
        return made

    @classmethod
    def opened(cls, path: Path, dimension: int, cache: int) -> Table:
        """The one that :meth:`write` wrote to ``path``; read-only, and nothing is ever put beside it."""
        address = f"{path.absolute().as_uri()}?immutable=1"
        return cls(connected(address, cache, reading=True), dimension)

    def copy(self, cache: int) -> Table:
        """A private one with the same content, which can be changed."""
        made = Table(connected("", cache), self.dimension)
        with made._connection.backup("main", self._connection, "main") as backup:
            backup.step(-1)
        return made

    def compacted(self, cache: int) -> Table:
        """A private one with the same vectors, and no room left by deleted ones."""
        made = Table.empty(self.dimension, cache)
        for ids, vectors in self.blocks(None):
            made.put(ids, vectors)
        return made

    @property
    def is_private(self) -> bool:
        """Whether it can be changed."""
        return not self._connection.readonly("main")

    def is_wasteful(self) -> bool:
        """Whether more than a fifth of its room is that of deleted vectors: sqlite-vec frees whole chunks only."""
        chunks = self._number("SELECT count(*) FROM vectors_chunks")
        return 4 * (chunks - 1) * CHUNK > 5 * self.count()

    def facts(self) -> dict[str, object]:
        """What :meth:`label` was given."""
        return {str(name): value for name, value in self._connection.execute("SELECT name, value FROM facts")}

    def label(self, facts: Mapping[str, str | int]) -> None:
        """Notes what this is, in place of what was noted before."""
        with self._connection:
            self._connection.execute("DELETE FROM facts")
            self._connection.executemany("INSERT INTO facts VALUES (?, ?)", sorted(facts.items()))

    def write(self, path: Path) -> None:
        """Writes a database file; ``path`` must not be there."""
        self._connection.execute("VACUUM INTO ?", (str(path),))

    def close(self) -> None:
        """Frees it; a private one is gone."""
        self._connection.close()

    def count(self) -> int:
        """How many vectors there are."""
        return self._number("SELECT count(*) FROM vectors")

    def put(self, ids: Ids, vectors: Vectors) -> None:
        """Adds unit or zero vectors, float32 (n, dimension), all or none; an id that is there is replaced."""
        with self._connection:
            self.remove(ids)
            rows = zip(ids.tolist(), _lifted(vectors), strict=True)
            self._connection.executemany("INSERT INTO vectors(id, vector) VALUES (?, ?)", rows)

    def remove(self, ids: Ids) -> None:
        """Deletes ids, all or none; those that are not there are passed over."""
        with self._connection:
            self._connection.executemany("DELETE FROM vectors WHERE id = ?", ((key,) for key in ids.tolist()))

    def nearest(self, query: Vectors, k: int, among: Ids | None) -> tuple[Ids, Vectors]:
        """The k nearest of the ids ``among`` (all for None) as sqlite-vec ranks them, k up to ``LARGEST_K``."""
        lifted = np.append(query, np.float32(0)).tobytes()
        if among is None:
            rows = self._connection.execute(
                "SELECT id, vector FROM vectors WHERE vector MATCH ? AND k = ?", (lifted, k)
            )
        else:
            rows = self._connection.execute(
                "SELECT id, vector FROM vectors WHERE vector MATCH ? AND k = ? AND id IN carray(?)",
                (lifted, k, apsw.carray(among)),
            )
        return self._arrays(rows.fetchall())

    def blocks(self, among: Ids | None) -> Iterator[tuple[Ids, Vectors]]:
        """All vectors, or those of the ids ``among``, in blocks: int64 (n,) and float32 (n, dimension)."""
        if among is None:
            cursor = self._connection.execute("SELECT id, vector FROM vectors ORDER BY id")
        else:
            cursor = self._connection.execute(
                "SELECT id, vector FROM vectors WHERE id IN carray(?)", (apsw.carray(among),)
            )
        while rows := list(islice(cursor, LARGEST_K)):
            yield self._arrays(rows)

    def _arrays(self, rows: list[tuple[apsw.SQLiteValue, ...]]) -> tuple[Ids, Vectors]:
        ids = np.array([key for key, _ in rows], dtype=np.int64)
        lifted = np.frombuffer(b"".join(vector for _, vector in rows), dtype=np.float32)  # type: ignore[misc]
        return ids, lifted.reshape(len(rows), self.dimension + 1)[:, : self.dimension]

    def _number(self, query: str) -> int:
        ((found,),) = self._connection.execute(query)
        return int(found)


def _lifted(vectors: Vectors) -> Iterator[bytes]:
    """Each vector with one more number, 1 for a zero vector and else 0, as sqlite-vec takes it."""
    for start in range(0, len(vectors), LARGEST_K):
        block = vectors[start : start + LARGEST_K]
        yield from map(np.ndarray.tobytes, np.column_stack([block, ~block.any(axis=1)]).astype(np.float32))


def connected(name: str, cache: int, *, reading: bool = False) -> apsw.Connection:
    """A connection that knows sqlite-vec, and takes no other extension."""
    flags = apsw.SQLITE_OPEN_READONLY if reading else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI)
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)
    connection.execute(f"PRAGMA cache_size = {-1024 * cache:d}")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
