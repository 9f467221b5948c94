"""What a file is, by its content first and its name second."""

from __future__ import annotations

import re

from attrs import frozen

SUFFIXES = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
}
WORDS = {
    "markdown": "Markdown",
    "text": "text",
    "html": "HTML",
    "pdf": "PDF",
    "docx": "an Office file",
    "csv": "CSV",
    "jsonl": "JSON lines",
}

HEAD = 8192
"""Bytes of a file that are looked at."""

HTML = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html[\s>])", re.I | re.S
)
OTHERS = {
    b"\xd0\xcf\x11\xe0": "is an Office file of the format before 2007, or one with a password",
    b"{\\rtf": "is RTF",
}
BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
CONTROL = bytes(range(9)) + bytes(range(14, 27)) + bytes(range(28, 32))  # not those of terminals and pages


@frozen
class Sniffed:
    """``kind`` is one of those of ``SUFFIXES``, or empty: then ``problem`` says what the file is."""

    kind: str
    problem: str = ""


def sniff(head: bytes, suffix: str) -> Sniffed:
    """What a file is that begins with ``head`` and is named so. ``problem`` with a kind: its name says another."""
    named = SUFFIXES[suffix.lower()]
    found = _by_content(head, named)
    if isinstance(found, Sniffed):
        return found
    if found is None:
        if named in ("pdf", "docx"):
            return Sniffed("", f"is no {suffix[1:].upper()}")
        return Sniffed(named)
    return Sniffed(found, "" if found == named else f"is {WORDS[found]} by its content, and is read as such")


def _by_content(head: bytes, named: str) -> str | Sniffed | None:
    if head.lstrip().startswith(b"%PDF-") or (named == "pdf" and b"%PDF-" in head[:1024]):
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "docx"
    if HTML.match(head):
        return "html"
    for begin, problem in OTHERS.items():
        if head.startswith(begin):
            return Sniffed("", problem)
    if not head.startswith(BOMS) and len(head) - len(head.translate(None, CONTROL)) > max(4, len(head) // 50):
        return Sniffed("", "is binary")
    return None
