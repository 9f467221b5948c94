"""Bytes to text that can be stored, searched and printed."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SURROGATE = re.compile("[\ud800-\udfff]")
ENDS = re.compile(r"\r\n?")
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LEGACY = "cp1252"
"""What text that is no UTF-8 is taken for: what Windows and web browsers take it for in western Europe."""

DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,30})""", re.I
)
ENCODINGS = re.compile(  # of the WHATWG's list; Python has codecs that are not for text (zlib), or slow (punycode)
    r"utf-?8|iso-?8859-?\d{1,2}|(?:windows-|cp)\d{3,4}|koi8-[ru]|(?:x-)?mac-?(?:roman|cyrillic)"
    r"|shift[-_]jis|euc-(?:jp|kr)|gb2312|gbk|gb18030|big5(?:-hkscs)?|tis-620"
)
ALIASES = {"iso-8859-1": LEGACY, "iso8859-1": LEGACY, "iso-8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030"}
CHUNK = 1 << 20


def encoding(stream: BinaryIO) -> tuple[str, int]:
    """The encoding of a file that may be larger than memory, and where it stops being UTF-8 (-1: it does not).

    By its byte order mark; else UTF-8 when all of it is; else Windows-1252.
    """
    stream.seek(0)
    head = stream.read(4)
    stream.seek(0)
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, -1
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    for chunk in _chunks(stream):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            stream.seek(0)
            return LEGACY, done - held + error.start
        done += len(chunk)
    stream.seek(0)
    return "utf-8", -1


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk
    yield b""


def markup(data: bytes) -> str:
    """The text of an HTML file: by its byte order mark; UTF-8 where it is that; as it declares; else Windows-1252."""
    for mark, name in BOMS:
        if data.startswith(mark):
            return data.decode(name, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    declared = DECLARED.search(data[:4096])
    name = declared[1].decode("ascii").lower() if declared else LEGACY
    if not ENCODINGS.fullmatch(name) or name in ("utf-8", "utf8"):
        name = LEGACY
    try:
        return data.decode(ALIASES.get(name, name), "replace")
    except LookupError:
        return data.decode(LEGACY, "replace")


def clean(text: str) -> tuple[str, list[tuple[str, str]]]:
    """``text`` with ``\\n`` line ends, without control characters (spaces instead) and half surrogate pairs.

    And (kind, message) for what was mended. A character stays a character, but for line ends.
    """
    mended: list[tuple[str, str]] = []
    text = ENDS.sub("\n", text) if "\r" in text else text
    if found := CONTROL.search(text):
        mended.append(("control-character", f"holds the control character U+{ord(found[0]):04X}"))
        text = CONTROL.sub(" ", text)
    if SURROGATE.search(text):
        mended.append(("unicode", "has half of a surrogate pair"))
        text = SURROGATE.sub("\ufffd", text)
    return text, mended


def one_line(text: str, longest: int = 200) -> str:
    """A title: white space folded, cut where it is longer than titles are."""
    line = " ".join(text[: longest * 4].split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
