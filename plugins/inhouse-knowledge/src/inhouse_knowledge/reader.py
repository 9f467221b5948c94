"""Reads a handed-over knowledge base: from any thread, from a read-only folder, never writing."""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from inhouse.errors import ArtifactError
from inhouse.values import Passage
from inhouse_knowledge.corpus import written
from inhouse_knowledge.schema import APPLICATION_ID, SCHEMA_VERSION, damaged, explained, unchanged

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

MAX_TERMS = 64  # words of a query that are looked up
SMALL = 1_000  # passages: up to so many, every word of a query is looked up
KNOWN = 10_000  # words of which it is kept whether they are common
BATCH = 500  # ids in one statement; SQLite allows at least 999 parameters

# :wanted is JSON, {key: [value, …]}: documents that have one of the values of every key; NULL for every document.
ALLOWED = """
SELECT id FROM chunks WHERE document IN (
    SELECT document FROM json_each(:wanted) AS each, json_each(each.value) AS one
    JOIN metadata ON metadata."key" = each."key" AND metadata.value = one.value
    GROUP BY document HAVING count(DISTINCT each."key") = (SELECT count(*) FROM json_each(:wanted))
) ORDER BY id
"""
LEXICAL = f"""
SELECT rowid, -rank FROM words WHERE words MATCH :words AND (:wanted IS NULL OR rowid IN ({ALLOWED}))
ORDER BY rank, rowid LIMIT :k
"""  # noqa: S608  of two constants

COMMON = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH :words LIMIT :most)"


@frozen
class DocumentRow:
    """A document as listed: its id in citations, title, where it came from, and its number of passages."""

    document: str
    title: str
    path: str
    chunks: int


def terms(query: str) -> list[str]:
    """The words of a query, each once: runs of letters, digits and marks; what stands between them is dropped."""
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in query)
    return list(dict.fromkeys(kept.casefold().split()))[:MAX_TERMS]


def match_expression(words: Iterable[str]) -> str:
    """Any of these words as an FTS5 expression, each quoted, so that no operator is left."""
    return " OR ".join(f'"{word}"' for word in words)


class Reader:
    """``embedder``, ``dimension`` and ``stamp`` say which vectors are inside. Safe under threads.

    Raises ``ArtifactError`` for a file that is missing, damaged, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False
        self._is_common = lru_cache(KNOWN)(self._look_up)
        if not path.is_file():
            raise ArtifactError(f"there is no {path.name}", where=str(path.parent), hint="run the step `knowledge`")
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        path = self.path
        with explained(path), self._connection() as connection:
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise ArtifactError("this is no knowledge base", where=str(path))
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            meta = dict(connection.execute("SELECT key, value FROM meta"))
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"this knowledge base has format {version}, this plugin reads {SCHEMA_VERSION}",
                where=str(path),
                hint="pip install --upgrade inhouse-knowledge, or run the step `knowledge` again",
            )
        try:
            identity = json.loads(meta["identity"])
            self.embedder, self.dimension = str(identity["embedder"]), int(identity["dimension"])
            self.dtype = str(identity.get("dtype", ""))
            self.stamp = int(meta["stamp"])
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError("the knowledge base does not say what is in it", where=str(path)) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses meanwhile."""
        if self._closed:
            raise ValueError("the knowledge base is closed")
        try:
            connection = self._idle.pop()
        except IndexError:
            # immutable: no lock file and no journal is looked for, so a read-only folder will do.
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
        try:
            yield connection
        finally:
            self._idle.append(connection)
            if self._closed:
                self.close()

    def close(self) -> None:
        """Closes every connection; those in use, when they are given back."""
        self._closed = True
        while self._idle:
            self._idle.popleft().close()

    def _rows(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        with explained(self.path), self._connection() as connection:
            return connection.execute(statement, values).fetchall()

    def count(self) -> int:
        """How many passages there are."""
        return int(self._rows("SELECT count(*) FROM chunks")[0][0])

    def documents(self) -> list[DocumentRow]:
        """All documents in the order in which they were added."""
        rows = self._rows(
            "SELECT name, documents.title, path, count(chunks.id) FROM documents"
            " LEFT JOIN chunks ON document = documents.id GROUP BY documents.id ORDER BY documents.id"
        )
        return [DocumentRow(*row) for row in rows]

    def owners(self) -> dict[int, str]:
        """The document's name of every chunk id, ascending."""
        return dict(
            self._rows("SELECT chunks.id, name FROM chunks JOIN documents ON documents.id = document ORDER BY 1")
        )

    def texts(self) -> Iterator[tuple[int, str, str]]:
        """Chunk id, title and text of every passage."""
        with explained(self.path), self._connection() as connection:
            yield from connection.execute("SELECT id, title, text FROM chunks")

    def whole(self) -> bool:
        """Whether passages and vectors are those that were handed over."""
        try:
            with explained(self.path), self._connection() as connection:
                return unchanged(connection)
        except (ArtifactError, TypeError):  # in a damaged file anything may be anywhere
            return False

    def lexical(self, query: str, k: int, where: Mapping[str, Any] | None = None) -> list[tuple[int, float]]:
        """Up to k (chunk id, BM25), best first; BM25 is positive here, higher is better."""
        words, wanted = terms(query), _wanted(where)
        telling = [word for word in words if not self._is_common(word)]
        for each in filter(None, (telling, words)):
            rows = self._rows(LEXICAL, {"words": match_expression(each), "k": k, "wanted": wanted})
            if rows:
                return [(int(key), float(score)) for key, score in rows]
        return []

    def _look_up(self, word: str) -> bool:
        """Whether more than half of the passages have it. FTS5's BM25 counts such a word for nothing (its inverse
        document frequency is at most 0, and 1e-6 is taken; fts5_aux.c), and takes longest for it."""
        half = self._passages // 2
        if self._passages <= SMALL:
            return False
        rows = self._rows(COMMON, {"words": match_expression([word]), "most": half + 1})
        return bool(rows[0][0] > half)

    @cached_property
    def _passages(self) -> int:
        return self.count()

    def allowed(self, where: Mapping[str, Any]) -> Ids:
        """Ascending ids of the chunks of documents with this metadata, int64."""
        rows = self._rows(ALLOWED, {"wanted": _wanted(where)})
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def passages(self, ids: Sequence[int]) -> dict[int, Passage]:
        """The passages with these chunk ids, with score 0; unknown ids are left out."""
        rows = self._in(
            'SELECT chunks.id, name, number, chunks.title, chunks.text, "start", "end", pages FROM chunks'
            " JOIN documents ON documents.id = document WHERE chunks.id",
            ids,
        )
        return {row[0]: self._passage(*row[1:]) for row in rows}

    def _passage(self, name: str, number: int, title: str, text: str, start: int, end: int, pages: str) -> Passage:
        """Raises ``ArtifactError`` for columns that hold something else."""
        texts, numbers = (name, title, text, pages), (number, start, end)
        if not all(type(each) is str for each in texts) or not all(type(each) is int for each in numbers):
            raise damaged(self.path, "a passage is none")
        try:
            page = bisect_right(json.loads(pages), start)
        except (TypeError, ValueError) as error:
            raise damaged(self.path, f"the pages of {name} are none") from error
        return Passage(name, number, title, text, start, end, 0.0, page)

    def vectors(self, ids: Sequence[int] | None = None) -> tuple[Ids, Vectors]:
        """Chunk ids and vectors, float32 (n, dimension), by rising id; all, or those of ``ids``."""
        if ids is None:
            total = int(self._rows("SELECT count(*) FROM vectors")[0][0])
            with explained(self.path), self._connection() as connection:
                return self._matrix(connection.execute("SELECT chunk, vector FROM vectors ORDER BY chunk"), total)
        rows = sorted(self._in("SELECT chunk, vector FROM vectors WHERE chunk", ids))
        return self._matrix(rows, len(rows))

    def _matrix(self, rows: Iterable[tuple[Any, ...]], total: int) -> tuple[Ids, Vectors]:
        keys, matrix = np.empty(total, np.int64), np.empty((total, self.dimension), np.float32)
        at = -1
        for at, (key, blob) in enumerate(rows):
            if at >= total or type(key) is not int or type(blob) is not bytes or len(blob) != 4 * self.dimension:
                raise damaged(self.path, f"a vector has not {self.dimension} numbers")
            keys[at], matrix[at] = key, np.frombuffer(blob, "<f4")
        if at + 1 != total:
            raise damaged(self.path, f"{at + 1} vectors where {total} are counted")
        if matrix.size and not np.isfinite([matrix.min(), matrix.max()]).all():
            raise damaged(self.path, "a vector holds NaN or infinity")
        return keys, matrix

    def _in(self, statement: str, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(ids), BATCH):
            batch = [int(key) for key in ids[start : start + BATCH]]
            found += self._rows(f"{statement} IN ({', '.join('?' * len(batch))})", batch)
        return found


def _wanted(where: Mapping[str, Any] | None) -> str | None:
    """The filter as ``ALLOWED`` takes it. Raises ``DataError`` for what no metadata can be."""
    return json.dumps({key: written(given, key, "where") for key, given in where.items()}) if where else None
