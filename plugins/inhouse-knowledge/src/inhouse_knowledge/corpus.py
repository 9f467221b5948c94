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
from inhouse.values import is_metadata

SURROGATES = re.compile("[\ud800-\udfff]")


@frozen
class Document:
    """``name`` is the id that passages cite, unique in a corpus; offsets count characters of ``text``.

    ``metadata`` are ascending pairs of a key and one of its values as JSON (see :func:`written`); ``pages`` are the
    offsets at which pages begin, ascending.
    """

    name: str
    title: str
    text: str
    path: str
    metadata: tuple[tuple[str, str], ...] = ()
    pages: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: what tells a changed document."""
        parts = [self.name, self.title, self.text, self.path, self.metadata, self.pages]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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
    title, text, path = (_text(row, key, where) for key in ("title", "text", "path"))
    return Document(name, title or name, text, path, _metadata(row, where), _pages(row, len(text), where))


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{key} has to be a string", where=where)
    return clean(value)


def clean(text: str) -> str:
    """JSON may hold lone surrogates and SQLite may not; one for one, so that offsets stay."""
    return SURROGATES.sub("\ufffd", text)


def _metadata(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    given = row.get("metadata", {})
    if not isinstance(given, dict):
        raise DataError("metadata has to be an object", where=where)
    pairs = {(clean(key), each) for key, value in given.items() for each in written(value, f"metadata.{key}", where)}
    return tuple(sorted(pairs))


def written(given: Any, what: str, where: str) -> list[str]:
    """A metadata value, or each of a list of them, as JSON: 1, "1" and true are three values, 2.0 is 2.

    Raises ``DataError`` for what is no string, number or boolean.
    """
    if not is_metadata(given):
        raise DataError(f"{what} has to be a string, a number, a boolean, or a list of those", where=where)
    several = given if isinstance(given, list) else [given]
    plain = (int(each) if isinstance(each, float) and each.is_integer() else each for each in several)
    return [clean(json.dumps(each, ensure_ascii=False)) for each in plain]


def _pages(row: dict[str, Any], length: int, where: str) -> tuple[int, ...]:
    given = row.get("pages", [])
    if not isinstance(given, list) or not all(type(each) is int and 0 <= each <= length for each in given):
        raise DataError("pages has to be a list of offsets in the text", where=where)
    if given and (given[0] != 0 or given != sorted(given)):
        raise DataError("pages have to begin at 0 and ascend", where=where)
    return tuple(given)
