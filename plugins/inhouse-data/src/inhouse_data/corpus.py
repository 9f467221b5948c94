"""Texts for pre-training and the knowledge base: a file is a document, and so is each row of a .jsonl file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import field, frozen

from inhouse.protocols import Step
from inhouse.values import is_metadata
from inhouse_data.check import CONTROL
from inhouse_data.findings import Findings, Place
from inhouse_data.read import files, objects, text


@frozen
class _Document:
    """A text with the place it was read from; ``id`` and ``title`` as its author or its file names it."""

    place: Place
    id: str
    title: str
    text: str
    metadata: Mapping[str, Any] = field(factory=dict)


def read_corpus(root: Path, findings: Findings, step: Step) -> Iterator[dict[str, Any]]:
    """Rows id, title, text and path, and metadata where there is some, one at a time, in the order of the files' paths.

    Of .txt and .md files the id is the file's stem, or its path where two files share a stem; the title is
    the first Markdown heading, or the first line of a .txt with a blank line under it, else the stem. A row
    of a .jsonl file has its text in ``text``, and its own ``id``, ``title`` and ``metadata`` where it gives them.
    """
    places = files(root, (".md", ".txt", ".jsonl"), "texts")
    names = names_of([place.name for place in places])
    seen: dict[bytes, str] = {}
    for place in step.track(places, unit="file"):
        for each in _documents(place, names[place.name], findings):
            body = each.text.strip()
            if not body:
                findings.add("empty-text", each.place, "has no text")
                continue
            first = seen.setdefault(_digest(body), each.place.short)
            if first != each.place.short:
                findings.add("duplicate", each.place, f"is the same text as {first}")
                continue
            if found := CONTROL.search(body):
                findings.add(
                    "control-character", each.place, f"holds the control character U+{ord(found[0]):04X}", "kept"
                )
            title = each.title or _title(body, PurePosixPath(place.name))
            row = {"id": each.id, "title": title, "text": body, "path": each.place.short}
            yield {**row, "metadata": each.metadata} if each.metadata else row


def _documents(place: Place, name: str, findings: Findings) -> Iterator[_Document]:
    if not place.name.lower().endswith(".jsonl"):
        body = text(place, findings)
        if body is not None:
            yield _Document(place, name, "", body)
        return
    for here, row in objects(place, findings):
        body, title = row.get("text"), row.get("title", "")
        if not isinstance(body, str) or not isinstance(title, str):
            findings.add("no-text", here, 'has no "text" that is a string')
            continue
        metadata = row.get("metadata", {})
        if not isinstance(metadata, dict) or not all(map(is_metadata, metadata.values())):
            findings.add(
                "metadata", here, "has metadata that is no object of strings, numbers, booleans or lists of those"
            )
            continue
        given = row.get("id")
        own = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else f"{name}-{here.line}"
        yield _Document(here, own, title or f"{PurePosixPath(name).name} {here.line}", body, metadata)


def _digest(body: str) -> bytes:
    """Of the words, so that line ends and spaces make no difference; 16 bytes of memory a document."""
    return hashlib.blake2b(" ".join(body.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _title(body: str, path: PurePosixPath) -> str:
    lines = body.split("\n", 3)
    if path.suffix.lower() == ".md":
        for line in body.split("\n"):
            if line.startswith("#") and line.lstrip("#").strip():
                return line.lstrip("#").strip().rstrip("#").strip()
    elif len(lines) > 2 and not lines[1].strip() and len(lines[0]) <= 120:
        return lines[0].strip()
    return path.stem


def names_of(files: Sequence[str]) -> Mapping[str, str]:
    """File name -> id: its stem, its path without suffix where stems are shared, its whole path where those are."""
    paths = {name: PurePosixPath(name) for name in files}
    stems = Counter(path.stem for path in paths.values())
    short = {
        name: path.stem if stems[path.stem] == 1 else path.with_suffix("").as_posix() for name, path in paths.items()
    }
    times = Counter(short.values())
    return {name: each if times[each] == 1 else name for name, each in short.items()}
