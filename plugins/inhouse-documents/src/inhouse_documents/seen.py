"""Which documents there were already: the same ones, similar ones, and ids that are taken. On disk, not in memory."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from inhouse_documents import minhash

NAME = "seen.sqlite"
CROWD = 64
"""Most documents under one key: what more of them have in common (a footer, a licence) tells nothing."""

NEAREST = 32
"""Most documents that one is compared with."""

TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE documents (number INTEGER PRIMARY KEY, digest BLOB UNIQUE, place TEXT, signature BLOB);
CREATE TABLE keys (key INTEGER, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID;
CREATE TABLE ids (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID;
"""


@frozen
class Copy:
    """``place`` is the earlier document's; ``exact``: the same but for white space."""

    place: str
    similarity: float
    exact: bool = False


class Seen:
    """Of one run: begins empty. ``similar``: from which estimated similarity a document is a copy, 1 = only the same.

    Close it before the folder goes.
    """

    def __init__(self, folder: Path, similar: float) -> None:
        self._path = folder / NAME
        self._path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.executescript(TABLES)
        self._connection.execute("BEGIN")
        self._similar = similar
        self._width = minhash.rows(similar)

    def copied(self, text: str, place: str, *, among: str = "", near: bool = True) -> Copy | None:
        """What the text is a copy of; else it is remembered. ``near``: whether a similar one counts as one.

        Only texts with the same ``among`` are copies of each other.
        """
        group = hashlib.blake2b(among.encode("utf-8"), digest_size=16).digest()
        words = " ".join(text.split()).encode("utf-8")
        digest = hashlib.blake2b(words, digest_size=16, key=group).digest()
        same = self._connection.execute("SELECT place FROM documents WHERE digest = ?", (digest,)).fetchone()
        if same:
            return Copy(same[0], 1.0, exact=True)
        signature, keys = b"", []
        if near and self._similar < 1:
            signature = minhash.signature(text)
            keys = minhash.bands(signature, self._width, group)
            nearest = self._nearest(signature, keys)
            if nearest:
                return nearest
        made = self._connection.execute(
            "INSERT INTO documents (digest, place, signature) VALUES (?, ?, ?)", (digest, place, signature)
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO keys SELECT ?1, ?2 WHERE (SELECT count(*) FROM keys WHERE key = ?1) < ?3",
            [(key, made.lastrowid, CROWD) for key in keys],
        )
        return None

    def _nearest(self, signature: bytes, keys: Sequence[int]) -> Copy | None:
        marks = ",".join("?" * len(keys))
        found = self._connection.execute(
            f"SELECT place, signature FROM (SELECT number, count(*) AS common FROM keys WHERE key IN ({marks})"  # noqa: S608
            " GROUP BY number ORDER BY common DESC, number LIMIT ?) JOIN documents USING (number) ORDER BY number",
            (*keys, NEAREST),
        )
        best: Copy | None = None
        for place, other in found:
            how = minhash.similarity(signature, other)
            if how >= self._similar and (best is None or how > best.similarity):
                best = Copy(place, how)
        return best

    def claim(self, wanted: Sequence[str], place: str) -> tuple[str, str]:
        """An id that is free: the first of ``wanted`` that is, else the last with a number.

        And the place that took the first of them, or nothing.
        """
        taken = ""
        number = 1
        names = list(wanted)
        while True:
            name = names.pop(0) if names else f"{wanted[-1]}-{(number := number + 1)}"
            first = self._connection.execute("SELECT place FROM ids WHERE id = ?", (name,)).fetchone()
            if first is None:
                self._connection.execute("INSERT INTO ids VALUES (?, ?)", (name, place))
                return name, taken
            taken = taken or first[0]

    def close(self) -> None:
        """Forgets all of it."""
        self._connection.close()
        self._path.unlink(missing_ok=True)
