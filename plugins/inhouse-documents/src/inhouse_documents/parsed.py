"""What becomes of a file: a text, or the reason why there is none. As values, and as JSON from child and cache."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from attrs import asdict, frozen

from inhouse_documents.decode import CONTROL, SURROGATE


@frozen
class Parsed:
    """The text of a file. ``pages``: the offset in ``text`` of each page; ``mended``: (kind, message) about it."""

    text: str
    title: str = ""
    pages: tuple[int, ...] = ()
    mended: tuple[tuple[str, str], ...] = ()


@frozen
class Refused:
    """Why a file has no text. ``lasting``: it would be so the next time too."""

    kind: str
    reason: str
    lasting: bool = True


def dumps(result: Parsed | Refused) -> bytes:
    """One line of JSON. Texts have to be clean (``inhouse_documents.decode``)."""
    return json.dumps(asdict(result), ensure_ascii=False).encode("utf-8") + b"\n"


def loads(line: bytes) -> Parsed | Refused:
    """Reads what :func:`dumps` wrote, and trusts none of it. Raises ``ValueError`` for anything else."""
    try:
        row: Any = json.loads(line)
        if row.keys() == {"kind", "reason", "lasting"}:
            return Refused(_word(row["kind"]), _text(row["reason"]), row["lasting"] is True)
        text, pages = _text(row["text"]), tuple(row["pages"])
        if not all(type(each) is int for each in pages) or (pages and (pages[0] != 0 or pages[-1] > len(text))):
            raise ValueError("pages outside of the text")
        if any(left >= right for left, right in pairwise(pages)):
            raise ValueError("pages out of order")
        mended = tuple((_word(kind), _text(message)) for kind, message in row["mended"])
        return Parsed(text, _text(row["title"]), pages, mended)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"is no result of a parser: {error}") from error


def pages(line: bytes) -> tuple[int, int]:
    """On which page the child is, of how many. Raises ``ValueError``."""
    row: Any = json.loads(line)
    page, of = (row.get("page"), row.get("of")) if isinstance(row, dict) else (None, None)
    if type(page) is not int or type(of) is not int or not 0 < page <= of < 10**6:
        raise ValueError("no page where one should be")
    return page, of


def _text(value: Any) -> str:
    if not isinstance(value, str) or CONTROL.search(value) or SURROGATE.search(value):
        raise ValueError("no clean text where one should be")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[a-z-]{1,40}", value):
        raise ValueError("no word where one should be")
    return value
