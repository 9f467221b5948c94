"""What the tests read: real PDF, DOCX and ZIP files made on the spot, and a step in a folder."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docx
from pypdf import PdfReader, PdfWriter

from inhouse.values import Artifact
from inhouse_documents import Options
from inhouse_documents.source import DocumentsSource


class FolderStep:
    """What the source uses of a step; ``checkpoints`` may be an earlier step's, ``made`` are corpora of earlier ones."""

    name = "handbook"
    seed = 7

    def __init__(
        self,
        root: Path,
        checkpoints: Path | None = None,
        before: Callable[[str], None] = lambda _: None,
        made: Sequence[Path] = (),
    ):
        self.outputs = {"text/corpus": root / "output"}
        self.checkpoints = checkpoints or root / "checkpoints"
        self.outputs["text/corpus"].mkdir(parents=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.before = before
        self.made = made
        self.notices: list[str] = []
        self.facts: dict[str, Any] = {}
        self.told: list[tuple[float, float]] = []

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        self.told.append((done, total))
        self.before(note)

    def earlier(self) -> list[Artifact]:
        return [Artifact("text/corpus", path, "0") for path in self.made]

    def notice(self, message: str, *, level: str = "info") -> None:
        self.notices.append(message)

    def note(self, **facts: Any) -> None:
        self.facts.update(json.loads(json.dumps(facts)))

    @property
    def corpus(self) -> bytes:
        return (self.outputs["text/corpus"] / "corpus.jsonl").read_bytes()

    @property
    def parsed(self) -> bytes:
        return (self.outputs["text/corpus"] / "parsed.jsonl").read_bytes()

    def rows(self) -> dict[str, dict[str, Any]]:
        """By id."""
        return {row["id"]: row for row in map(json.loads, self.corpus.splitlines())}

    def skipped(self) -> dict[str, str]:
        """Kind by path, of what was left out."""
        return {each["path"]: each["kind"] for each in self.facts["skipped"]}

    def reason(self, path: str) -> str:
        return next(each["reason"] for each in self.facts["skipped"] if each["path"] == path)


def read(
    folder: Path, root: Path, *, checkpoints: Path | None = None, made: Sequence[Path] = (), **options: Any
) -> FolderStep:
    """Reads a folder; the step's own folders lie in ``root``."""
    step = FolderStep(root, checkpoints, made=made)
    DocumentsSource(Options(folder, **options)).produce(step)  # type: ignore[arg-type]
    return step


def pdf(pages: Sequence[str], title: str = "", stream: Callable[[bytes], tuple[bytes, bytes]] | None = None) -> bytes:
    """A PDF in Helvetica, a line of text for each line. ``stream`` packs a page: (bytes, its dictionary's entries)."""
    objects: list[bytes] = [
        b"",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    kids = []
    for page in pages:
        lines = [line.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
                 for line in page.split("\n")]  # fmt: skip
        drawn = b"BT /F1 12 Tf 14 TL 50 750 Td " + b" ".join(b"(" + line + b") Tj T*" for line in lines) + b" ET"
        content, entries = stream(drawn) if stream else (drawn if page else b"", b"")
        objects.append(b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >>"
            b" /Contents %d 0 R >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    objects.append(b"<< /Title (%s) >>" % title.encode("cp1252"))
    made, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, each in enumerate(objects, 1):
        offsets.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    made += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\n" % (len(objects) + 1, len(objects))
    return bytes(made + b"startxref\n%d\n%%%%EOF\n" % table)


def encrypted(content: bytes, password: str, algorithm: str = "AES-256") -> bytes:
    """A PDF that opens with ``password``."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm=algorithm)  # noqa: S106
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def word(fill: Callable[[Any], object]) -> bytes:
    """A DOCX that python-docx wrote."""
    document = docx.Document()
    fill(document)
    made = io.BytesIO()
    document.save(made)
    return made.getvalue()


def word_of(*paragraphs: str) -> bytes:
    """A DOCX with these paragraphs."""
    return word(lambda document: [document.add_paragraph(each) for each in paragraphs])


def changed(archive: bytes, parts: Mapping[str, bytes]) -> bytes:
    """A ZIP file with some of its members replaced or added, packed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if entry.filename not in parts:
                new.writestr(entry.filename, old.read(entry))
        for name, content in parts.items():
            new.writestr(name, content)
    return made.getvalue()


def lying(archive: bytes, name: str, size: int) -> bytes:
    """A ZIP file whose directory says that a member unpacks to ``size`` bytes."""
    made = bytearray(archive)
    at = made.rindex(b"PK\x01\x02", 0, made.rindex(name.encode()))
    made[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(made)
