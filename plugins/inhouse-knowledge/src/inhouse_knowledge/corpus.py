"""Reads ``corpus.jsonl``, one document a line, without holding the whole of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from inhouse.errors import DataError

SURROGATES = re.compile("[\ud800-\udfff]")


@frozen
class Document:
    """``name`` is the id that passages cite, unique in a corpus; offsets count characters of ``text``."""

    name: str
    title: str
    text: str
    path: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: what tells a changed document."""
        parts = json.dumps([self.name, self.title, self.text, self.path]).encode()
        return hashlib.sha256(parts).hexdigest()


def read(path: Path) -> Iterator[Document]:
    """The documents in the order of the file. Raises ``DataError`` with file and line."""
    seen: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                document = _document(line, f"{path}:{number}")
                first = seen.setdefault(document.name, number)
                if first != number:
                    raise DataError(
                        f"the id {document.name!r} was line {first}'s already",
                        where=f"{path}:{number}",
                        hint="give every document an id of its own",
                    )
                yield document
    except OSError as error:
        raise DataError(f"cannot read the corpus: {error.strerror}", where=str(path)) from error


def _document(line: bytes, where: str) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON: {error}", where=where) from error
    if not isinstance(row, dict):
        raise DataError("a line has to be an object with id, title, text and path", where=where)
    name = _text(row, "id", where)
    if not name or "text" not in row:
        raise DataError("a document needs an id and a text", where=where)
    return Document(name, _text(row, "title", where) or name, _text(row, "text", where), _text(row, "path", where))


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{key} has to be a string", where=where)
    # JSON may hold lone surrogates and SQLite may not; one for one, so that offsets stay.
    return SURROGATES.sub("\ufffd", value)
