"""Texts for pre-training and the knowledge base: one document a file, with its title."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from inhouse.protocols import Step
from inhouse_data.check import CONTROL
from inhouse_data.findings import Findings
from inhouse_data.read import files, text


def read_corpus(root: Path, findings: Findings, step: Step) -> list[dict[str, str]]:
    """Rows id, title, text and path of the .txt and .md files, in the order of their paths.

    The id is the file's stem, or its path without suffix where two files share a stem; the title is the
    first Markdown heading, or the first line of a .txt with a blank line under it, else the stem.
    """
    places = files(root, (".md", ".txt"), "texts")
    stems = Counter(PurePosixPath(place.name).stem for place in places)
    seen: dict[str, str] = {}
    rows = []
    for place in step.track(places, unit="file"):
        body = text(place, findings)
        if body is None:
            continue
        body = body.strip()
        if not body:
            findings.add("empty-text", place, "has no text")
            continue
        first = seen.setdefault(" ".join(body.split()), place.name)
        if first != place.name:
            findings.add("duplicate", place, f"is the same text as {first}")
            continue
        if found := CONTROL.search(body):
            findings.add("control-character", place, f"holds the control character U+{ord(found[0]):04X}", "kept")
        path = PurePosixPath(place.name)
        name = path.stem if stems[path.stem] == 1 else path.with_suffix("").as_posix()
        rows.append({"id": name, "title": _title(body, path), "text": body, "path": place.name})
    return _with_own_ids(rows)


def _title(body: str, path: PurePosixPath) -> str:
    lines = body.split("\n")
    if path.suffix.lower() == ".md":
        for line in lines:
            if line.startswith("#") and line.lstrip("#").strip():
                return line.lstrip("#").strip().rstrip("#").strip()
    elif len(lines) > 2 and not lines[1].strip() and len(lines[0]) <= 120:
        return lines[0].strip()
    return path.stem


def _with_own_ids(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """``a.md`` beside ``a.txt`` still share an id: those go by their whole path."""
    times = Counter(row["id"] for row in rows)
    return [row if times[row["id"]] == 1 else {**row, "id": row["path"]} for row in rows]
