"""Files to lines and JSON objects, with what is wrong about their bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from inhouse.errors import DataError
from inhouse_data.findings import Findings, Place

BOM = b"\xef\xbb\xbf"


def files(root: Path, suffixes: tuple[str, ...], what: str) -> list[Place]:
    """The file itself, or the files under a folder in the order of their names.

    Raises ``DataError`` when there is none.
    """
    if root.is_file():
        if root.suffix.lower() not in suffixes:
            raise DataError(f"{what} come as {' or '.join(suffixes)}, this is {root.suffix or 'without a suffix'}",
                            where=str(root), hint=f"give a {suffixes[0]} file or a folder of them")  # fmt: skip
        return [Place(root, root.name)]
    if not root.is_dir():
        raise DataError("no such file or folder", where=str(root))
    found = [
        Place(path, path.relative_to(root).as_posix())
        for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix())
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise DataError(f"no {' or '.join(suffixes)} in this folder", where=str(root))
    return found


def text(place: Place, findings: Findings) -> str | None:
    """A whole text file with ``\\n`` line ends; None, and a finding, when it is no UTF-8."""
    data = _bytes(place)
    if data.startswith(BOM):
        findings.add("bom", place, "begins with a byte order mark", "mended")
        data = data[len(BOM) :]
    if b"\r" in data:
        line = data[: data.index(b"\r")].count(b"\n") + 1
        findings.add("line-ends", _at(place, line), "line ends with a carriage return", "mended")
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        findings.add("encoding", _at(place, line), f"is no UTF-8 (byte 0x{data[error.start]:02x})")
        return None


def objects(place: Place, findings: Findings) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The JSON objects of a file, one a line, with their places; blank lines are passed over.

    What cannot be read is added to ``findings`` and not yielded.
    """
    crlf = False
    with _open(place) as lines:
        for number, line in enumerate(lines, start=1):
            here = _at(place, number)
            if number == 1 and line.startswith(BOM):
                findings.add("bom", here, "begins with a byte order mark", "mended")
                line = line[len(BOM) :]  # noqa: PLW2901
            if line.endswith(b"\r\n") and not crlf:
                crlf = True
                findings.add("line-ends", here, "line ends with a carriage return", "mended")
            if line.strip():
                try:
                    row = json_object(line)
                except RowError as error:
                    findings.add(error.kind, here, str(error))
                else:
                    yield here, row


class RowError(ValueError):
    """A line that is no row; ``kind`` is that of the finding: encoding, json or format."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def json_object(line: bytes) -> dict[str, Any]:
    """The JSON object on a line of UTF-8. Raises ``RowError``."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        said = f"is no UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})"
        raise RowError("encoding", said) from error
    except json.JSONDecodeError as error:
        raise RowError("json", f"is no JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise RowError("json", f"is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise RowError("format", f"holds {type(row).__name__}, and a row is one JSON object on one line")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _at(place: Place, line: int) -> Place:
    return Place(place.path, place.name, line)


def _bytes(place: Place) -> bytes:
    with _open(place) as file:
        return file.read()


def _open(place: Place) -> BinaryIO:
    try:
        return place.path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(place)) from error
