"""The source `documents`: from a folder to ``corpus.jsonl``."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import mutable

from inhouse.errors import DataError, ResourceError
from inhouse.protocols import Step
from inhouse.recipe import parse_size
from inhouse_data.corpus import names_of
from inhouse_documents import Options, walk
from inhouse_documents.cache import Cache
from inhouse_documents.earlier import Earlier, Results
from inhouse_documents.findings import Findings, Place
from inhouse_documents.limits import Limits
from inhouse_documents.parser import Parser
from inhouse_documents.reading import Document, Reader
from inhouse_documents.seen import Seen


@mutable
class _Told:
    """How far it is, for the progress while a file is parsed."""

    step: Step
    total: int
    done: int = 0
    name: str = ""

    def __call__(self, page: str = "") -> None:
        note = f"{self.name}, {page}" if page else self.name
        self.step.progress(self.done, self.total, unit="file", note=note)


class DocumentsSource:
    """Writes ``text/corpus`` (``corpus.jsonl``), one document a line, in the order of the files' paths.

    What is parsed is kept in the folder ``cache``, or else in the step's checkpoints, by the content of the files; and
    beside the corpus (``parsed.jsonl``), for the next run of the step.
    """

    def __init__(self, options: Options, cache: Path | None = None) -> None:
        self.options = options
        self.cache = cache
        self.limits = Limits(
            options.seconds, parse_size(options.memory, "memory"), parse_size(options.unpacked, "unpacked")
        )

    def describe(self) -> dict[str, int]:
        """Bytes it will write, about: those it reads."""
        try:
            places = walk.files(self.options.folder, Findings())
        except DataError:  # told by produce, where it is somebody's fault
            return {"bytes": 0}
        return {"bytes": sum(_size(place.path) for place in places)}

    def produce(self, step: Step) -> None:
        """Reads everything; documents are streamed, a corpus may be larger than memory.

        The same folder gives the same bytes, and a run that was killed parses nothing again. Raises ``DataError`` when
        there is no file, or no document in them, and ``ResourceError`` when nothing can be written or started.
        """
        findings, begun = Findings(), time.monotonic()
        places = walk.files(self.options.folder, findings)
        try:
            documents = self._write(step, findings, places)
        except (OSError, sqlite3.Error) as error:
            raise ResourceError(f"cannot write the corpus: {error}", where=str(step.outputs["text/corpus"])) from error
        if not documents:
            lines = findings.summaries()
            because = ":\n  " + "\n  ".join(lines) if lines else ""
            raise DataError(f"no document is left{because}", where=str(self.options.folder))
        _tell(step, findings, len(places), documents, time.monotonic() - begun)

    def _write(self, step: Step, findings: Findings, places: Sequence[Place]) -> int:
        """Writes ``corpus.jsonl``; how many documents it has."""
        told, target = _Told(step, len(places)), step.outputs["text/corpus"]
        before = (each.path for each in step.earlier() if each.kind == "text/corpus")
        with (
            closing(Cache(self.cache or step.checkpoints)) as kept,
            closing(Earlier(before)) as earlier,
            closing(Results(target)) as results,
            closing(Seen(step.checkpoints, self.options.near_duplicates)) as seen,
            Parser(self.limits, told) as parser,
        ):
            reader = Reader(parser, kept, earlier, results, findings)
            written = _write_rows(target / "corpus.jsonl", self._rows(reader, seen, findings, places, told))
        if earlier.reused:
            step.notice(f"{earlier.reused} files are as before: they are not parsed again")
        return written

    def _rows(
        self, reader: Reader, seen: Seen, findings: Findings, places: Sequence[Place], told: _Told
    ) -> Iterator[dict[str, Any]]:
        names = names_of([place.name for place in places])
        reserved = frozenset(names.values())
        for done, place in enumerate(places):
            told.done, told.name = done, place.name
            told()
            for document in reader.documents(place, names[place.name]):
                told()
                if self._is_new(document, seen, findings):
                    yield self._row(document, seen, findings, reserved)
        told.done = len(places)
        told()

    def _is_new(self, document: Document, seen: Seen, findings: Findings) -> bool:
        if not document.text.strip():
            findings.add("empty-text", document.place, "has no text")
            return False
        # What another tenant may see is no copy: without it, that tenant would find nothing.
        among = json.dumps(document.metadata, sort_keys=True)
        copy = seen.copied(document.text, document.place.short, among=among, near=document.near)
        if copy is None:
            return True
        if copy.exact:
            findings.add("duplicate", document.place, f"is the same text as {copy.place}")
        else:
            said = f"is {copy.similarity:.0%} the same as {copy.place} (estimated)"
            findings.add("near-duplicate", document.place, said)
        return False

    def _row(self, document: Document, seen: Seen, findings: Findings, reserved: frozenset[str]) -> dict[str, Any]:
        """The line of ``corpus.jsonl``. A row cannot take the id of a file."""
        of_file = not document.place.line
        wanted = [name for name in document.ids if of_file or name not in reserved] or [document.ids[-1] + "-row"]
        name, taken = seen.claim(wanted, document.place.short)
        if name != document.ids[0]:
            owner = taken or "a file"
            findings.add("id", document.place, f"the id {document.ids[0]} is that of {owner}; here: {name}", "mended")
        row: dict[str, Any] = {
            "id": name, "title": document.title, "text": document.text, "path": document.place.short,
        }  # fmt: skip
        # The recipe's word goes before the document's: a document cannot say that it is another tenant's.
        if metadata := {**document.metadata, **self.options.metadata}:
            row["metadata"] = metadata
        if document.pages:
            row["pages"] = list(document.pages)
        return row


def _tell(step: Step, findings: Findings, files: int, documents: int, seconds: float) -> None:
    for line in findings.summaries():
        step.notice(line, level="warning")
    step.notice(
        f"{documents:,} documents from {files:,} files, {documents / max(seconds, 0.001):,.1f} documents a second"
    )
    step.note(
        files=files,
        documents=documents,
        findings=dict(sorted(findings.counts.items())),
        skipped=findings.listed(),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """One JSON object a line, on the disk when it returns; how many they were."""
    count = 0
    with path.open("wb") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007  counted as it goes
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return count
