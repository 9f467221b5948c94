"""DOCX to Markdown, over the HTML that mammoth makes of it. Runs in the child process only."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import Any, BinaryIO
from xml.parsers import expat

import mammoth  # type: ignore[import-untyped]

from inhouse_documents import html
from inhouse_documents.decode import clean, one_line
from inhouse_documents.parsed import Parsed, Refused

ENTRIES = 10_000
RATIO = 200  # text packs to a tenth, what Word writes at most to a hundredth
SUSPECT = 20_000_000  # bytes: a ratio above that says nothing of a smaller file
CHUNK = 1 << 20

MAIN = re.compile(r"word/document\d*\.xml")
NEEDED = re.compile(
    r"\[Content_Types\]\.xml|(?:.*/)?_rels/[^/]*\.rels|word/(?:document\d*|styles|numbering|footnotes|endnotes|comments)\.xml"
)
"""Parts that hold text, or say what is text: a damaged theme or picture does no harm."""

STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Heading 7'] => h6:fresh
p[style-name='Heading 8'] => h6:fresh
p[style-name='Heading 9'] => h6:fresh
"""
OTHERS = {
    "xl/workbook.xml": "is an Excel workbook; save its sheets as CSV",
    "ppt/presentation.xml": "is a PowerPoint presentation; save it as PDF",
    "content.xml": "is an OpenDocument file; save it as DOCX or PDF",
    "META-INF/container.xml": "is an e-book; save it as HTML or PDF",
}


class _Bomb(Exception):
    pass


def parse(stream: BinaryIO, unpacked: int, _: object = None) -> Parsed | Refused:
    """The text with headings, lists, tables and footnotes; no pictures, headers and footers."""
    try:
        with zipfile.ZipFile(stream) as archive:
            _check(archive.infolist(), unpacked)
            names = archive.namelist()
            if not any(map(MAIN.fullmatch, names)):
                other = next((said for name, said in OTHERS.items() if name in names), "is a ZIP file")
                return Refused("unreadable", other)
            parts = _repacked(archive, unpacked)
    except _Bomb as bomb:
        return Refused("too-large", str(bomb))
    except RecursionError:
        raise
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, OSError) as error:
        return Refused("unreadable", one_line(f"is a damaged ZIP file: {clean(str(error))[0]}"))
    made = mammoth.convert_to_html(
        parts,
        style_map=STYLES,
        include_embedded_style_map=False,
        convert_image=lambda _: [],
    )
    title, text, mended = html.markdown(made.value)
    if not text:
        return Refused("no-text", "has no text")
    return Parsed(text, title, (), mended)


def _check(entries: list[zipfile.ZipInfo], unpacked: int) -> None:
    """By what the directory says, before anything is unpacked."""
    total = sum(each.file_size for each in entries)
    packed = sum(each.compress_size for each in entries)
    if len(entries) > ENTRIES:
        raise _Bomb(f"holds {len(entries):,} files")
    if total > unpacked:
        raise _Bomb(f"unpacks to {total:,} bytes, more than {unpacked:,}")
    if total > SUSPECT and total > RATIO * packed:
        raise _Bomb(f"unpacks to {total // max(packed, 1):,} times its size")


def _repacked(archive: zipfile.ZipFile, unpacked: int) -> io.BytesIO:
    """The parts that are text, counted as they are unpacked: the directory may lie. And none with a DTD."""
    left, made = unpacked, io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for entry in archive.infolist():
            if not NEEDED.fullmatch(entry.filename) or entry.filename in target.namelist():
                continue
            content = bytearray()
            with archive.open(entry) as part:
                while piece := part.read(CHUNK):
                    content += piece
                    left -= len(piece)
                    if left < 0:
                        raise _Bomb(f"unpacks to more than {unpacked:,} bytes")
            _refuse_dtd(bytes(content))
            target.writestr(entry.filename, content)
    made.seek(0)
    return made


def _refuse_dtd(content: bytes) -> None:
    """Office files have none (ECMA-376-2, 8.1.1); what has one wants its entities multiplied."""

    def found(*_: Any) -> None:
        raise _Bomb("holds a DTD, as Office files never do")

    reader = expat.ParserCreate()
    reader.StartDoctypeDeclHandler = found
    reader.Parse(content, True)
