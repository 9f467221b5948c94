"""What holds in a knowledge base that is whole. Each check yields a line for every row of which it does not hold.

In a damaged file anything may be in any column. ``sqlite3.Error`` is raised for what SQLite itself cannot read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import numpy as np

from inhouse_knowledge.corpus import Document


def documents(connection: sqlite3.Connection) -> Iterator[str]:
    """Every document is what its digest was taken of when it came in."""
    for row, name, title, text, place, pages, digest in connection.execute(
        "SELECT id, name, title, text, path, pages, digest FROM documents"
    ):
        metadata = connection.execute('SELECT "key", value FROM metadata WHERE document = ? ORDER BY 1, 2', (row,))
        try:
            document = Document(name, title, text, place, tuple(metadata.fetchall()), tuple(json.loads(pages)))
            same = document.digest == digest
        except (TypeError, ValueError):  # bytes where text was, or no JSON
            same = False
        if not same:
            yield f"{name} is not what came in"


def passages(connection: sqlite3.Connection) -> Iterator[str]:
    """Every passage is a slice of its document, and has a vector."""
    for name, number, same, bare in connection.execute(
        'SELECT name, number, chunks.text = substr(documents.text, "start" + 1, "end" - "start"), vectors.chunk IS NULL'
        " FROM chunks JOIN documents ON documents.id = document LEFT JOIN vectors ON vectors.chunk = chunks.id"
    ):
        if not same:
            yield f"passage {number} of {name} is not in its document"
        if bare:
            yield f"passage {number} of {name} has no vector"


def vectors(connection: sqlite3.Connection, dimension: int) -> Iterator[str]:
    """Every vector is ``dimension`` finite numbers."""
    for name, number, vector in connection.execute(
        "SELECT name, number, vector FROM vectors"
        " JOIN chunks ON chunks.id = chunk JOIN documents ON documents.id = document"
    ):
        if not _is_vector(vector, dimension):
            yield f"the vector of passage {number} of {name} is not {dimension} numbers"


def _is_vector(value: object, dimension: int) -> bool:
    """Whether a column holds ``dimension`` finite float32."""
    if not isinstance(value, bytes) or len(value) != 4 * dimension:
        return False
    return bool(np.isfinite(np.frombuffer(value, "<f4")).all())


def words(connection: sqlite3.Connection) -> Iterator[str]:
    """The full-text index is that of the passages; FTS5 compares them only in a file that it may write."""
    try:
        connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
    except sqlite3.DatabaseError as error:
        if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
            raise
        yield f"the full-text index is not that of the passages: {error}"
