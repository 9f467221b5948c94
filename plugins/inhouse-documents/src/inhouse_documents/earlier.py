"""What was parsed lies beside the corpus: the next run of the step parses only files that it does not know.

``parsed.jsonl`` has one line for each file, ``{"key", "result", "checksum"}``: ``result`` is what
:func:`inhouse_documents.parsed.dumps` makes, and ``checksum`` its BLAKE2b.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from inhouse_documents.parsed import Parsed, Refused, dumps, loads

NAME = "parsed.jsonl"


class Earlier:
    """The results beside the first of ``corpora`` (folders) that has some, by key. ``reused`` counts those given.

    A line that is damaged, or of another make, is as if it were not there.
    """

    def __init__(self, corpora: Iterable[Path]) -> None:
        self.reused = 0
        self._file: IO[bytes] | None = None
        self._places: dict[str, int] = {}
        path = next((each / NAME for each in corpora if (each / NAME).is_file()), None)
        if path:
            self._file = path.open("rb")
            self._index(self._file)

    def _index(self, file: IO[bytes]) -> None:
        place = 0
        for line in file:
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                self._places[str(json.loads(line)["key"])] = place
            place += len(line)

    def get(self, key: str) -> Parsed | Refused | None:
        """What was made of this file then, or None."""
        place = self._places.get(key)
        if self._file is None or place is None:
            return None
        self._file.seek(place)
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            row = json.loads(self._file.readline())
            if (row["key"], row["checksum"]) == (key, _checksum(row["result"])):
                found = loads(row["result"].encode("utf-8"))
                self.reused += 1
                return found
        return None

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


class Results:
    """Writes the results beside a corpus, in the order in which they come, each key once; no file without any."""

    def __init__(self, corpus: Path) -> None:
        self._path = corpus / NAME
        self._path.unlink(missing_ok=True)
        self._file: IO[bytes] | None = None
        self._keys: set[str] = set()

    def add(self, key: str, result: Parsed | Refused) -> None:
        """Raises ``OSError``."""
        if key in self._keys:
            return
        self._keys.add(key)
        self._file = self._file or self._path.open("wb")
        made = dumps(result).decode("utf-8")
        row = {"key": key, "result": made, "checksum": _checksum(made)}
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")

    def close(self) -> None:
        """They are on the disk when it returns."""
        if self._file:
            with self._file as file:
                file.flush()
                os.fsync(file.fileno())


def _checksum(result: str) -> str:
    return hashlib.blake2b(result.encode("utf-8"), digest_size=16).hexdigest()
