"""Writes a knowledge base: a working file that survives a kill, and the single file that is handed over."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from inhouse.errors import ArtifactError
from inhouse_knowledge import checks
from inhouse_knowledge.chunking import Chunk
from inhouse_knowledge.corpus import Document
from inhouse_knowledge.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, checksum, explained, in_use

Vectors = npt.NDArray[np.float32]
Entry = tuple[Document, Sequence[Chunk], Vectors]
"""A document, its passages, and their vectors, float32 (len(chunks), dimension)."""

BUSY_SECONDS = 30.0
VERSIONS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"


class Writer:
    """The working file; a context manager. Each :meth:`put` and :meth:`remove` is one transaction.

    ``identity`` says what the contents depend on besides the documents (embedder, its dimension, chunk size …). A file
    of another identity or schema, or a damaged one, is started anew; ``fresh`` tells. A second writer waits for the
    first, and raises ``ResourceError`` after ``BUSY_SECONDS``.
    """

    def __init__(self, path: Path, identity: dict[str, str | int]) -> None:
        self.path = path
        self._identity = json.dumps(identity, sort_keys=True)
        self._dimension = int(identity["dimension"])
        self._lock = _locked(path)
        try:
            self._connection = self._opened(path, anew=False)
            self.fresh = not self._fits()
            if self.fresh:
                self._connection.close()
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)
                self._connection = self._opened(path, anew=True)
        except BaseException:
            self._lock.close()
            raise

    def _opened(self, path: Path, *, anew: bool) -> sqlite3.Connection:
        with explained(path):
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA foreign_keys = ON")
            if anew:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {VERSIONS}")
                self._set(connection, identity=self._identity, generation="0")
                connection.execute("COMMIT")
        return connection

    def _fits(self) -> bool:
        """Whether it is the file that is wanted, and whole: what was committed before is handed over as it is."""
        one = self._connection.execute
        try:
            with explained(self.path):
                return (
                    one("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
                    and one("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
                    and one("PRAGMA quick_check(1)").fetchone()[0] == "ok"
                    and self._meta("identity") == self._identity
                    and self._meta("generation").isdecimal()
                    and next(self._wrong(), None) is None
                )
        except ArtifactError:
            return False

    def _wrong(self) -> Iterator[str]:
        yield from checks.documents(self._connection)
        yield from checks.passages(self._connection)
        yield from checks.vectors(self._connection, self._dimension)
        yield from checks.words(self._connection)

    def digests(self) -> dict[str, str]:
        """Name and content digest of every document that is there."""
        with explained(self.path):
            return dict(self._connection.execute("SELECT name, digest FROM documents"))

    def put(self, entries: Iterable[Entry]) -> None:
        """Adds documents with their passages and vectors, in place of those of the same name."""
        with explained(self.path), _Transaction(self._connection):
            for document, chunks, vectors in entries:
                self._put(document, chunks, vectors)
            self._advance()

    def _put(self, document: Document, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        run = self._connection.execute
        run("DELETE FROM documents WHERE name = ?", (document.name,))
        row = run(
            "INSERT INTO documents (name, title, path, text, pages, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (document.name, document.title, document.path, document.text, json.dumps(document.pages), document.digest),
        ).lastrowid
        self._connection.executemany(
            'INSERT INTO metadata ("key", value, document) VALUES (?, ?, ?)',
            ((*pair, row) for pair in document.metadata),
        )
        for number, (chunk, vector) in enumerate(zip(chunks, vectors, strict=True)):
            key = run(
                'INSERT INTO chunks (document, number, title, text, "start", "end") VALUES (?, ?, ?, ?, ?, ?)',
                (row, number, chunk.title, chunk.text, chunk.start, chunk.end),
            ).lastrowid
            run("INSERT INTO vectors (chunk, vector) VALUES (?, ?)", (key, vector.astype("<f4").tobytes()))

    def remove(self, names: Iterable[str]) -> None:
        """Removes documents with all that belongs to them."""
        with explained(self.path), _Transaction(self._connection):
            self._connection.executemany("DELETE FROM documents WHERE name = ?", ((name,) for name in names))
            self._advance()

    def hand_over(self, target: Path) -> None:
        """Writes all of it as one file without journal beside it, durably; ``target`` is whole or not there.

        The same documents put in the same order give the same bytes, killed in between or not.
        """
        self._check()
        aside = target.with_name(f".{target.name}.part")
        try:
            with explained(target):
                aside.unlink(missing_ok=True)
                self._connection.execute("INSERT INTO words (words) VALUES ('optimize')")
                self._set(self._connection, stamp=str(self._stamp()), checksum=checksum(self._connection))
                self._connection.execute("VACUUM INTO ?", (str(aside),))
                with closing(sqlite3.connect(aside)) as copy:
                    copy.execute("PRAGMA journal_mode = DELETE")
                with aside.open("rb+") as file:
                    os.fsync(file.fileno())
                aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def _check(self) -> None:
        """The full-text index against its passages, and every passage with its vector."""
        with explained(self.path):
            self._connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
            bare = self._connection.execute(
                "SELECT count(*) FROM chunks LEFT JOIN vectors ON chunk = id WHERE chunk IS NULL"
            ).fetchone()[0]
        if bare:
            raise ArtifactError(f"{bare} passages have no vector", where=str(self.path))

    def _stamp(self) -> int:
        """What a vector index has to carry to belong to these vectors: identity, generation and documents."""
        total = hashlib.sha256(f"{self._identity}\n{self._meta('generation')}\n".encode())
        for name, digest in self._connection.execute("SELECT name, digest FROM documents ORDER BY id"):
            total.update(f"{name}\n{digest}\n".encode())
        return int.from_bytes(total.digest()[:7])

    def _advance(self) -> None:
        self._set(self._connection, generation=str(int(self._meta("generation")) + 1))

    def _meta(self, key: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    @staticmethod
    def _set(connection: sqlite3.Connection, **values: str) -> None:
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def close(self) -> None:
        """Closes the file; committed transactions are kept."""
        self._connection.close()
        self._lock.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _locked(path: Path) -> IO[str]:
    """Keeps other writers out until it is closed, or the process ends. SQLite's own locks hold for a transaction only,
    and not for a file that is begun anew."""
    with explained(path):
        stream = path.with_name(f"{path.name}.lock").open("w")
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() > until:
                stream.close()
                raise in_use(path) from None
            time.sleep(0.1)


class _Transaction:
    """BEGIN IMMEDIATE, so that whoever else has the file open is waited for here and not in the middle; COMMIT or
    ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
