"""Rows of CSV and JSON lines, one document each, read without holding the whole file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, TextIO

from attrs import field, frozen

from inhouse.values import is_metadata
from inhouse_data.read import RowError, json_object
from inhouse_documents.decode import encoding, one_line
from inhouse_documents.findings import Findings, Place

DELIMITERS = ",;\t|"
SAMPLE = 1 << 16
ROWS = 20  # of the sample, to tell the delimiter


@frozen
class Row:
    """A document that is a row; ``id``, ``title`` and ``metadata`` as the row gives them."""

    place: Place
    text: str
    title: str = ""
    id: str = ""
    metadata: dict[str, Any] = field(factory=dict)


class _TooLong(Exception):
    pass


def csv_rows(stream: BinaryIO, place: Place, findings: Findings, longest: int) -> Iterator[Row]:
    """Each row as lines ``column: value``, named by the first row; the first value is the title.

    A row alone says nothing about its columns, and a whole table is too much for one passage: so the names go with
    each row. The delimiter is told from the first rows. A file that stops being CSV is read up to there.
    """
    name, stop = encoding(stream)
    if stop >= 0:
        findings.add("encoding", place, f"is no UTF-8 (byte {stop + 1}); read as Windows-1252", "mended")
    lines = io.TextIOWrapper(stream, encoding=name, errors="replace", newline="")
    delimiter, above = _delimiter(lines)
    reader = csv.reader(_lines(lines, longest), delimiter=delimiter)
    columns: list[str] = []
    line = above + 1
    try:
        for cells in reader:
            here, line = place.at(line), above + reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [one_line(cell) for cell in cells]
                continue
            named = ((_column(columns, at), cell.strip()) for at, cell in enumerate(cells))
            text = "\n".join(f"{column}: {cell}" for column, cell in named if cell)
            yield Row(here, text, one_line(cells[0]))
    except csv.Error as error:
        findings.add("csv", place.at(line), f"is no CSV from here on: {error}")
    except _TooLong:
        findings.add(
            "too-large", place.at(line), f"a line is longer than {longest:,} characters; not read from here on"
        )
    finally:
        lines.detach()


def _column(columns: list[str], at: int) -> str:
    return (columns[at] if at < len(columns) else "") or f"column {at + 1}"


def _lines(lines: TextIO, longest: int) -> Iterator[str]:
    while line := lines.readline(longest):
        if len(line) == longest and not line.endswith(("\n", "\r")):
            raise _TooLong
        yield line


def _delimiter(lines: TextIO) -> tuple[str, int]:
    """The one that cuts the first rows as it cuts the very first. Leaves ``lines`` at the first row of the table.

    And how many lines stand above that: a file that Excel wrote may begin with ``sep=;``.
    """
    sample = lines.read(SAMPLE)
    lines.seek(0)
    if sample[:4] == "sep=" and sample[4:5] in tuple(DELIMITERS) and sample[5:6] in ("\r", "\n"):
        lines.readline()
        return sample[4], 1
    best, most = ",", (0.0, 1)
    for each in DELIMITERS:
        try:
            rows = csv.reader(io.StringIO(sample, newline=""), delimiter=each)
            widths = [len(row) for row in islice(rows, ROWS) if row]
        except csv.Error:
            continue
        score = (widths.count(widths[0]) / len(widths), widths[0]) if widths else (0.0, 1)
        if widths and widths[0] > 1 and score > most:
            best, most = each, score
    return best, 0


def jsonl_rows(stream: BinaryIO, place: Place, findings: Findings, longest: int) -> Iterator[Row]:
    """Rows with ``text``, and ``id``, ``title`` and ``metadata`` where they have them. Others go into ``findings``."""
    stream.seek(0)
    number = 0
    while line := stream.readline(longest):
        number += 1
        here = place.at(number)
        if len(line) == longest and not line.endswith(b"\n"):
            findings.add("too-large", here, f"is longer than {longest:,} bytes")
            while line and not line.endswith(b"\n"):
                line = stream.readline(1 << 20)
            continue
        row = _object(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, here, findings)
        if row is None:
            continue
        text, title, given = row.get("text"), row.get("title"), row.get("metadata")
        if not isinstance(text, str) or not isinstance(title or "", str):
            findings.add("no-text", here, 'has no "text" that is a string')
            continue
        if given is not None and not (isinstance(given, dict) and all(map(is_metadata, given.values()))):
            said = "has metadata that is no object of strings, numbers, booleans or lists of those"
            findings.add("metadata", here, said)
            continue
        own = row.get("id")
        named = str(own) if isinstance(own, (str, int)) and not isinstance(own, bool) else ""
        yield Row(here, text, title or "", named, given or {})


def _object(line: bytes, here: Place, findings: Findings) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        return json_object(line)
    except RowError as error:
        findings.add("encoding" if error.kind == "encoding" else "json", here, str(error))
        return None
