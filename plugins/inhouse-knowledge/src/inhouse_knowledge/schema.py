"""The tables of a knowledge base, and what SQLite's errors mean to a user."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inhouse.errors import ArtifactError, ResourceError

SCHEMA_VERSION = 2
"""Kept as ``PRAGMA user_version``; raise it when a table changes."""

APPLICATION_ID = 0x696E6B62  # "inkb": tells a knowledge base from any other SQLite file

# AUTOINCREMENT: an id is never given twice, so a vector index cannot mistake a new passage for an old one.
# The full-text table keeps no text of its own (content=chunks); the triggers keep it in step.
# documents.pages is a JSON list of offsets; metadata.value is JSON too, so that 1, "1" and true are three values.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    path TEXT NOT NULL,
    text TEXT NOT NULL,
    pages TEXT NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE metadata (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    PRIMARY KEY ("key", value, document)
) WITHOUT ROWID;
CREATE INDEX metadata_document ON metadata (document);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    number INTEGER NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    "start" INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    UNIQUE (document, number)
);
CREATE TABLE vectors (
    chunk INTEGER PRIMARY KEY REFERENCES chunks ON DELETE CASCADE,
    vector BLOB NOT NULL
);
CREATE VIRTUAL TABLE words USING fts5 (
    title, text, content = 'chunks', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO words (rowid, title, text) VALUES (new.id, new.title, new.text);
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO words (words, rowid, title, text) VALUES ('delete', old.id, old.title, old.text);
END;
"""


def checksum(connection: sqlite3.Connection) -> str:
    """SHA-256 over every passage's place, title and vector; a text is a slice of a document with a digest."""
    total = hashlib.sha256()
    for *place, vector in connection.execute(
        'SELECT document, number, title, "start", "end", vector FROM chunks JOIN vectors ON chunk = id ORDER BY id'
    ):
        total.update(json.dumps(place).encode())
        total.update(vector)
    return total.hexdigest()


def unchanged(connection: sqlite3.Connection) -> bool:
    """Whether titles, places and vectors of passages are those that were handed over."""
    kept = connection.execute("SELECT value FROM meta WHERE key = 'checksum'").fetchone()
    return kept is not None and bool(kept[0] == checksum(connection))


def fts5_missing() -> str | None:
    """One line when this Python's SQLite has no FTS5, else None."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5 (text)")
    except sqlite3.OperationalError as error:
        return f"this Python's SQLite {sqlite3.sqlite_version} has no full-text search ({error}); use another Python"
    finally:
        connection.close()
    return None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and of the file system on ``path`` into ``ResourceError`` (full, locked, not to be
    written) or ``ArtifactError`` (damaged)."""
    try:
        yield
    except OSError as error:
        raise _unusable(path, error.strerror or error) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise in_use(path) from error
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
            raise _unusable(path, error) from error
        raise damaged(path, error) from error


def damaged(path: Path, why: object) -> ArtifactError:
    """The error for a file in which something cannot be what was written."""
    return ArtifactError(
        f"the knowledge base is damaged: {why}",
        where=str(path),
        hint="run the recipe again: the step `knowledge` makes it anew",
    )


def in_use(path: Path) -> ResourceError:
    """The error for a second writer."""
    return ResourceError(
        "another process is writing this knowledge base",
        where=str(path),
        hint="wait for it to end, then run the same command again",
    )


def _unusable(path: Path, why: object) -> ResourceError:
    return ResourceError(
        f"cannot read or write the knowledge base: {why}",
        where=str(path),
        hint="free some space and check that the folder is there and may be written; nothing is half done",
    )
