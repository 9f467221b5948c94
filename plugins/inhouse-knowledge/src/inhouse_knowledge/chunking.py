"""Cuts a document into passages: by Markdown headings, then blocks, lines, sentences, words, characters.

A passage is a slice of the document, at most so many tokens, and never crosses a heading. Headings are not
part of the slice but of the title: ``Returns > Shoes``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import ceil

from attrs import frozen
from markdown_it import MarkdownIt

CHUNKING_VERSION = 1
"""Part of a knowledge base's identity: bump it when the same text is cut differently."""

Count = Callable[[str], int]
Span = tuple[int, int]

NEWLINE = re.compile(r"\r\n?|\n")  # what markdown-it takes for the end of a line
WORD = re.compile(r"\w+|[^\w\s]")
TOKEN_CHARACTERS = 32  # more than a token ever has in text that somebody wrote
CUTS = (
    re.compile(r"\n+"),
    re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])"),
    re.compile(r"\s+"),
)  # finer and finer: lines, sentences, words


@frozen
class Chunk:
    """``text == document[start:end]``; offsets in characters (code points)."""

    title: str
    text: str
    start: int
    end: int


def embedded_text(title: str, text: str) -> str:
    """What is embedded for a passage: its title says what the text is about."""
    return f"{title}\n{text}"


@frozen
class _Section:
    title: str
    heading: Span
    level: int
    blocks: tuple[Span, ...]


def estimate_tokens(text: str) -> int:
    """Words and punctuation marks, for embedders that do not count tokens themselves."""
    return sum(1 for _ in WORD.finditer(text))


def split(text: str, title: str, *, limit: int, count: Count = estimate_tokens) -> list[Chunk]:
    """The passages of a document, in order, each of at most ``limit`` tokens by ``count``.

    A document that fits stays whole. A first heading that repeats the title is left out.
    """
    size = _bounded(count)
    body = _body(text, title)
    whole = _chunk(text, title, *body)
    if whole is None:
        return []
    if size(whole.text) <= limit:
        return [whole]
    chunks: list[Chunk] = []
    sections = _sections(text, title, body)
    for at, section in enumerate(sections):
        spans = section.blocks
        if not spans:
            deeper = at + 1 < len(sections) and sections[at + 1].level > section.level
            spans = () if deeper else (section.heading,)
        for start, end in _packed(text, spans, limit, size):
            chunk = _chunk(text, section.title, start, end)
            chunks += [chunk] if chunk else []
    return chunks


def _bounded(count: Count) -> Count:
    """A tokenizer may take a megabyte without spaces for one unknown token: its length counts as well."""
    return lambda piece: max(count(piece), len(piece) // TOKEN_CHARACTERS)


def _chunk(text: str, title: str, start: int, end: int) -> Chunk | None:
    """The slice without white space around it; None when nothing is left."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    piece = piece.strip()
    return Chunk(title, piece, start, start + len(piece)) if piece else None


def _body(text: str, title: str) -> Span:
    """What follows a first heading that says the title again (all, when nothing follows)."""
    first = re.match(r"\s*#{1,6}[ \t]+([^\r\n]*?)[ \t#]*(?:\r\n?|\n|$)", text)
    if first and first[1].strip().casefold() == title.strip().casefold() and text[first.end() :].strip():
        return first.end(), len(text)
    return 0, len(text)


def _sections(text: str, title: str, body: Span) -> list[_Section]:
    """The body cut at its headings; each with its top-level Markdown blocks."""
    starts = [0, *(match.end() for match in NEWLINE.finditer(text, body[0])), len(text)]
    starts[0] = body[0]
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])  # blocks are enough, and inline text may be hostile
    tokens = parser.parse(text[body[0] :])
    sections = [_Section(title, (body[0], body[0]), 0, ())]
    path: list[tuple[int, str]] = []
    for at, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        first, last = token.map
        span = (starts[first], starts[min(last, len(starts) - 1)])
        if token.type == "heading_open":
            level = int(token.tag[1:])
            path = [*(item for item in path if item[0] < level), (level, tokens[at + 1].content.strip())]
            name = " > ".join([title, *(heading for _, heading in path if heading)])
            sections.append(_Section(name, span, level, ()))
        else:
            now = sections[-1]
            sections[-1] = _Section(now.title, now.heading, now.level, (*now.blocks, span))
    return _complete(text, sections, body[1])


def _complete(text: str, sections: list[_Section], end: int) -> list[_Section]:
    """Stretches each block to the next, so that what Markdown drops (link definitions) is in a passage too."""
    result = []
    for at, section in enumerate(sections):
        stop = sections[at + 1].heading[0] if at + 1 < len(sections) else end
        starts = [section.heading[1], *(start for start, _ in section.blocks[1:])]
        stretched = zip(starts, [*starts[1:], stop], strict=True)
        blocks = tuple(stretched) if text[section.heading[1] : stop].strip() else ()
        result.append(_Section(section.title, section.heading, section.level, blocks))
    return [section for section in result if section.blocks or section.level]


def _packed(text: str, spans: tuple[Span, ...], limit: int, count: Count) -> Iterator[Span]:
    """Joins neighbouring pieces into passages of like size, none above ``limit``."""
    pieces = [piece for span in spans for piece in _pieces(text, span, limit, count)]
    total = sum(tokens for _, tokens in pieces)
    target = total / max(1, ceil(total / limit))
    start = end = -1
    held = 0
    for (left, right), tokens in pieces:
        full = held >= target or held + tokens > limit
        # White space, and where words meet, may count too: so the joined text is counted once more.
        if start >= 0 and (full or count(text[start:right].strip()) > limit):
            yield start, end
            start, held = -1, 0
        start = left if start < 0 else start
        end, held = right, held + tokens
    if start >= 0:
        yield start, end


def _pieces(text: str, span: Span, limit: int, count: Count, depth: int = 0) -> Iterator[tuple[Span, int]]:
    """Cuts a span finer and finer until each piece fits; yields it with its tokens."""
    start, end = span
    tokens = count(text[start:end])
    if tokens <= limit or end - start <= 1:
        if text[start:end].strip():
            yield span, tokens
    elif depth < len(CUTS):
        cuts = [start, *(match.end() for match in CUTS[depth].finditer(text, start, end)), end]
        for left, right in pairwise(cuts):
            if left < right:
                yield from _pieces(text, (left, right), limit, count, depth + 1)
    else:  # one word without end: halves
        middle = (start + end) // 2
        yield from _pieces(text, (start, middle), limit, count, depth)
        yield from _pieces(text, (middle, end), limit, count, depth)
