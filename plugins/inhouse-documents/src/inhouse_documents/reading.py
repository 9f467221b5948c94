"""From a file to its documents: told by content, read here or by the child process, and kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import PurePosixPath
from typing import Any

from attrs import field, frozen

from inhouse_documents import frontmatter, walk
from inhouse_documents.cache import Cache
from inhouse_documents.decode import clean, encoding, one_line
from inhouse_documents.earlier import Earlier, Results
from inhouse_documents.findings import Findings, Place
from inhouse_documents.parsed import Parsed, Refused
from inhouse_documents.parser import KINDS, Parser
from inhouse_documents.rows import Row, csv_rows, jsonl_rows
from inhouse_documents.sniff import HEAD, sniff

HEADING = re.compile(r" {0,3}#{1,6}[ \t]+")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
FIRST_LINE = 120  # characters: longer ones are text


@frozen
class Document:
    """A document before it has its id: ``ids`` are those that it may have, the best first.

    ``near``: whether one with similar words is a copy. Rows of a table are not: they differ by the one number that
    counts.
    """

    place: Place
    ids: tuple[str, ...]
    title: str
    text: str
    metadata: Mapping[str, Any] = field(factory=dict)
    pages: tuple[int, ...] = ()
    near: bool = True


class Reader:
    """Reads files; no document is larger than the parser's limit ``unpacked``, in bytes or characters."""

    def __init__(self, parser: Parser, cache: Cache, earlier: Earlier, results: Results, findings: Findings) -> None:
        self._parser = parser
        self._cache, self._earlier, self._results = cache, earlier, results
        self._findings = findings
        self._unpacked = parser.limits.unpacked
        self._identity = parser.identity()

    def documents(self, place: Place, name: str) -> Iterator[Document]:
        """The documents of a file that is to be called ``name``; what is wrong with it goes into the findings."""
        try:
            with walk.opened(place) as stream:
                yield from self._documents(stream, place, name)
        except OSError as error:
            self._findings.add("unreadable", place, f"cannot be read: {error.strerror}")

    def _documents(self, stream: BufferedReader, place: Place, name: str) -> Iterator[Document]:
        found = sniff(stream.read(HEAD), PurePosixPath(place.name).suffix)
        if found.problem:
            self._findings.add("wrong-kind", place, found.problem, "kept" if found.kind else "left out")
        if found.kind in ("csv", "jsonl"):
            read = csv_rows if found.kind == "csv" else jsonl_rows
            for row in read(stream, place, self._findings, self._unpacked):
                yield from self._row(row, name, near=found.kind == "jsonl")
        elif found.kind in KINDS:
            yield from self._whole(self._parsed(stream, found.kind), place, name, found.kind)
        elif found.kind:
            yield from self._whole(self._plain(stream, place), place, name, found.kind)

    def _parsed(self, stream: BufferedReader, kind: str) -> Parsed | Refused:
        """From what was kept, or what the run before made, else by the child process."""
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        key = f"{digest},{kind},{self._identity}"
        result = self._cache.get(key) or self._earlier.get(key)
        if result is None:
            result = self._parser.parse(stream, kind)
            if isinstance(result, Refused) and not result.lasting:  # a busy machine may be why it took too long
                return result
            self._cache.put(key, result)
        self._results.add(key, result)
        return result

    def _plain(self, stream: BufferedReader, place: Place) -> Parsed | Refused:
        if os.fstat(stream.fileno()).st_size > self._unpacked:
            return Refused("too-large", f"has more than {self._unpacked:,} bytes")
        name, stop = encoding(stream)
        if stop >= 0:
            said = f"is no UTF-8 (byte {stop + 1}); read as Windows-1252"
            self._findings.add("encoding", place, said, "mended")
        text, mended = clean(stream.read().decode(name, "replace"))
        return Parsed(text, mended=tuple(mended))

    def _whole(self, result: Parsed | Refused, place: Place, name: str, kind: str) -> Iterator[Document]:
        """The one document of a file."""
        if isinstance(result, Refused):
            self._findings.add(result.kind, place, result.reason)
            return
        for what, message in result.mended:
            partly = what in ("empty-pages", "unreadable-pages")
            self._findings.add(what, place, message, "kept" if partly else "mended")
        front, text = frontmatter.FrontMatter(), result.text
        if kind == "markdown":
            front, text = frontmatter.split(text)
            if front.passed:
                said = one_line(
                    f"front matter of {', '.join(front.passed[:5])} is nested or quoted oddly; read without it"
                )
                self._findings.add("front-matter", place, said, "kept")
        if not result.pages:  # their offsets are of the text as it is
            text = text.strip()
        own = front.values.pop("title", "")
        title = result.title or (str(own) if isinstance(own, (str, int, float)) else "") or _title(text, kind)
        yield Document(
            place, (name,), one_line(title) or PurePosixPath(place.name).stem, text, front.values, result.pages
        )

    def _row(self, row: Row, name: str, *, near: bool) -> Iterator[Document]:
        text, mended = clean(row.text)
        for what, message in mended:
            self._findings.add(what, row.place, message, "mended")
        numbered = f"{name}-{row.place.line}"
        own, title = one_line(clean(row.id)[0]), one_line(clean(row.title)[0])
        metadata = {clean(key)[0]: _cleaned(value) for key, value in row.metadata.items()}
        ids = (own, numbered) if own else (numbered,)
        shown = title or f"{PurePosixPath(name).name} {row.place.line}"
        yield Document(row.place, ids, shown, text.strip(), metadata, near=near)


def _cleaned(value: Any) -> Any:
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    return clean(value)[0] if isinstance(value, str) else value


def _unmarked(heading: str) -> str:
    """Without the #s that may close it; strip, since a pattern could take for ever on a hostile line."""
    heading = heading.strip()
    bare = heading.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else heading


def _title(text: str, kind: str) -> str:
    """The first heading; of a text without any, its first line where a blank one follows."""
    if kind == "text":
        lines = text.split("\n", 2)
        return lines[0] if len(lines) > 2 and not lines[1].strip() and len(lines[0]) <= FIRST_LINE else ""
    if kind == "pdf":  # a line of it that begins with # is none of our headings
        return ""
    fence = ""
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        elif not fence and (found := HEADING.match(line)) and (heading := _unmarked(line[found.end() :])):
            return heading
    return ""
