"""What was parsed, by the content of the file: a run that was killed does not parse it again.

One SQLite file, as safe against a kill as SQLite is. It holds nothing that cannot be made again: a damaged one is
thrown away.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from inhouse.errors import ResourceError
from inhouse_documents.parsed import Parsed, Refused, dumps, loads

NAME = "parsed.sqlite"
FORMAT = 1


class Cache:
    """Results by key, in ``folder``; the key says all that decides the result. Close it before the folder goes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        try:
            self._connection = self._opened()
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(NAME + suffix).unlink(missing_ok=True)
            try:
                self._connection = self._opened()
            except sqlite3.Error as error:
                raise ResourceError(f"cannot keep what is parsed: {error}", where=str(self._path)) from error

    def get(self, key: str) -> Parsed | Refused | None:
        """What was kept, or None."""
        with contextlib.suppress(sqlite3.DatabaseError, ValueError):  # damaged: as if it were not there
            row = self._connection.execute("SELECT result FROM parsed WHERE key = ?", (key,)).fetchone()
            return loads(row[0]) if row else None
        return None

    def put(self, key: str, result: Parsed | Refused) -> None:
        """Keeps a result; it is there after a kill. Raises ``ResourceError`` when the disk is full."""
        try:
            self._connection.execute("INSERT OR REPLACE INTO parsed VALUES (?, ?)", (key, dumps(result)))
        except sqlite3.Error as error:
            raise ResourceError(f"cannot keep what is parsed: {error}", where=str(self._path)) from error

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last ones, never the file
            (format_,) = connection.execute("PRAGMA user_version").fetchone()
            if format_ not in (0, FORMAT):
                raise sqlite3.DatabaseError(f"format {format_}")
            connection.execute("CREATE TABLE IF NOT EXISTS parsed (key TEXT PRIMARY KEY, result BLOB) WITHOUT ROWID")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            connection.close()
            raise
        return connection
