"""PDF to text, page by page. Runs in the child process only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from pypdf import PdfReader

from inhouse_documents.decode import clean, one_line
from inhouse_documents.parsed import Parsed, Refused

GAP = "\n\n"
"""Between two pages; so no two of them begin at the same offset, even where one is empty."""

LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
HYPHEN = re.compile("\u00ad\n?")
NO_TITLE = re.compile(
    r"microsoft (?:word|powerpoint|excel) ?-.*|untitled.*|unbenannt.*|\W*|.*\.(?:docx?|pptx?|xlsx?|pdf|indd|tex|dvi)",
    re.I,
)
"""What programs write where the title should be: the name of a file, or nothing."""


def parse(stream: BinaryIO, unpacked: int, tell: Callable[[int, int], None]) -> Parsed | Refused:
    """The text of all pages. Refused: one with a password other than the empty one, and one without text (a scan).

    ``tell`` is told each page's number, and how many there are.
    """
    reader = PdfReader(stream, strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        return Refused("encrypted", "is protected by a password")
    texts: list[str] = []
    broken: list[int] = []
    size = 0
    count = len(reader.pages)
    for number in range(1, count + 1):
        tell(number, count)
        try:
            text = reader.pages[number - 1].extract_text()
        except (MemoryError, RecursionError):
            raise
        except Exception:  # what else a damaged page raises
            text = ""
            broken.append(number)
        texts.append(_tidy(text))
        size += len(text) + len(GAP)
        if size > unpacked:
            return Refused("too-large", f"has more than {unpacked:,} characters of text")
    return _joined(texts, broken, _title(reader))


def _joined(texts: Sequence[str], broken: Sequence[int], title: str) -> Parsed | Refused:
    mended: list[tuple[str, str]] = []
    pages, at, cleaned = [], 0, []
    for text in texts:
        pages.append(at)
        better, notes = clean(text)
        mended += [note for note in notes if note[0] not in {kind for kind, _ in mended}]
        cleaned.append(better)
        at += len(better) + len(GAP)
    empty = sum(1 for text in cleaned if not text.strip())
    if broken:
        said = f"{len(broken)} of {len(texts)} pages cannot be read (the first: {broken[0]})"
        if empty == len(texts):
            return Refused("unreadable", said)
        mended.append(("unreadable-pages", said))
    elif empty == len(texts):
        return Refused("no-text", "has no text; if it is a scan, put it through text recognition (OCR) first")
    if empty * 2 > len(texts):
        mended.append(("empty-pages", f"{empty} of {len(texts)} pages have no text (scans?)"))
    return Parsed(GAP.join(cleaned), title, tuple(pages), tuple(mended))


def _tidy(text: str) -> str:
    lines = HYPHEN.sub("", text.translate(LIGATURES)).split("\n")
    return "\n".join(map(str.rstrip, lines)).strip("\n")


def _title(reader: PdfReader) -> str:
    try:
        found: Any = reader.metadata.title if reader.metadata else ""
    except Exception:  # it may be of any type, and damaged
        return ""
    title = one_line(clean(found.translate(LIGATURES))[0]) if isinstance(found, str) else ""
    return "" if NO_TITLE.fullmatch(title) else title
