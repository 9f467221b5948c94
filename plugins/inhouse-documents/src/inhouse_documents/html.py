"""HTML to Markdown: headings, paragraphs, lists, tables and code. Runs in the child process only."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from selectolax.lexbor import LexborHTMLParser

from inhouse_documents.decode import clean, markup, one_line
from inhouse_documents.parsed import Parsed, Refused

_SKIPPED = """
head script style noscript template nav svg canvas iframe object embed audio video map button select datalist input
textarea"""
_BLOCKS = """
address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form header
hgroup hr html legend li main ol p pre section summary ul table caption thead tbody tfoot tr td th h1 h2 h3 h4 h5 h6"""
SKIPPED = frozenset(_SKIPPED.split())
BLOCKS = frozenset(_BLOCKS.split())
HEADINGS = {f"h{level}": level for level in range(1, 7)}
INDENT = "   "  # as far as the text after "1. " stands
INDENTS = 8  # levels of lists that are shown as such
NO_DISPLAY = re.compile(r"display\s*:\s*none", re.I)


def parse(stream: BinaryIO, unpacked: int, _: object = None) -> Parsed | Refused:
    """The text of a page, without scripts, styles, navigation and what is hidden."""
    data = stream.read(unpacked + 1)
    if len(data) > unpacked:
        return Refused("too-large", f"has more than {unpacked:,} bytes")
    title, text, mended = markdown(markup(data))
    if not text:
        return Refused("no-text", "has no text")
    return Parsed(text, title, (), mended)


def markdown(source: str) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Title (the first ``h1``, else ``title``), text as Markdown, and what was mended in it."""
    source, mended = clean(source)
    tree = LexborHTMLParser(source)
    writer = _Writer()
    if tree.body is not None:
        _walk(tree.body, writer)
    named = tree.css_first("head > title")
    title = writer.title or (named.text() if named is not None else "")
    # Character references (&#7;) bring back what was taken out of the source.
    text, again = clean(writer.text())
    known = {kind for kind, _ in mended}
    return one_line(clean(title)[0]), text, (*mended, *(each for each in again if each[0] not in known))


def _walk(root: Any, writer: "_Writer") -> None:
    """All nodes in the order of the document, without recursion: pages may be nested 100,000 deep."""
    node, depth = root, 0
    while True:
        child = node.first_child if writer.enter(node) else None
        if child is not None:
            node, depth = child, depth + 1
            continue
        writer.leave(node.tag)
        while depth and node.next is None:
            node, depth = node.parent, depth - 1
            writer.leave(node.tag)
        if not depth:
            return
        node = node.next


class _Writer:
    """Gathers the text of inline nodes in ``line`` and makes a block of it where a block begins or ends.

    A table is gathered cell by cell. One that turns out to hold headings or tables is no table but a layout: what it
    holds is written as it comes.
    """

    def __init__(self) -> None:
        self.title = ""
        self._blocks: list[tuple[str, bool]] = []  # text, and whether it is a list's line
        self._line: list[str] = []
        self._heading = 0
        self._pre = 0
        self._lists: list[int] = []  # of each open list the number of its next item; 0: bullets
        self._bullet = ""
        self._tables: list[list[list[str]] | None] = []  # of each open table its rows; None: a layout
        self._cell = False

    def text(self) -> str:
        """All of it, as Markdown."""
        self._flush()
        parts: list[str] = []
        before = False
        for text, listed in self._blocks:
            parts += ["" if not parts else "\n" if before and listed else "\n\n", text]
            before = listed
        return "".join(parts)

    def enter(self, node: Any) -> bool:
        """Takes a node in; False when what is in it is passed over."""
        tag = node.tag
        if tag == "-text":
            self._add(node.text_content or "")
            return False
        if tag in SKIPPED or not node.is_element_node or _unseen(node, tag):
            return False
        if tag == "br":
            self._line.append("\n")
        if tag not in BLOCKS:
            return True
        if tag in HEADINGS or tag == "table":
            self._spill()
        if tag == "table":
            self._tables.append([])
        elif tag in ("tr", "td", "th"):
            self._begin_cell(tag)
        elif tag in ("ul", "ol"):
            self._flush()
            self._lists.append(1 if tag == "ol" else 0)
        elif tag == "li":
            self._begin_item()
        elif tag == "pre":
            self._flush()
            self._pre += 1
        else:
            self._flush()
            self._heading = HEADINGS.get(tag, self._heading)
        return True

    def leave(self, tag: str | None) -> None:
        """The node and all in it were seen."""
        if tag not in BLOCKS:
            return
        if tag in ("td", "th") and self._cell:
            self._cell = False
            rows = self._tables[-1]
            assert rows is not None
            rows[-1].append(_squeezed(self._line).replace("\n", " "))
            self._line = []
            return
        self._flush()
        if tag in HEADINGS:
            self._heading = 0
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
        elif tag == "li":
            self._bullet = ""
        elif tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        elif tag == "table" and self._tables:
            self._write_table(self._tables.pop())

    def _add(self, text: str) -> None:
        if self._pre and not self._cell:
            self._line.append(text)
        else:
            self._line.append(re.sub(r"\s+", " ", text))

    def _begin_item(self) -> None:
        self._flush()
        number = self._lists[-1] if self._lists else 0
        if number:
            self._lists[-1] += 1
        self._bullet = f"{number}. " if number else "- "

    def _begin_cell(self, tag: str) -> None:
        self._flush()
        rows = self._tables[-1] if self._tables else None
        if rows is None:
            return
        if tag == "tr" or not rows:
            rows.append([])
        if tag != "tr":
            self._cell = True

    def _spill(self) -> None:
        """Makes a layout of the innermost table: what was gathered is written, in the order of the page."""
        rows = self._tables[-1] if self._tables else None
        if rows is None:
            self._flush()
            return
        begun, self._line, self._cell = self._line, [], False
        self._tables[-1] = None
        for row in rows:
            self._blocks += [(cell, False) for cell in row if cell]
        self._line = begun
        self._flush()

    def _flush(self) -> None:
        """Ends a paragraph."""
        if self._cell:
            self._line.append(" ")
            return
        raw, self._line = self._line, []
        if self._pre:
            self._write_code("".join(raw).strip("\n"))
            return
        text = _squeezed(raw)
        if not text:
            return
        if self._heading:
            text = text.replace("\n", " ")
            self.title = self.title or (text if self._heading == 1 else "")
            self._blocks.append((f"{'#' * self._heading} {text}", False))
        elif self._lists or self._bullet:
            indent = INDENT * min(len(self._lists) - bool(self._bullet), INDENTS)
            self._blocks.append((indent + self._bullet + text.replace("\n", " "), True))
            self._bullet = ""
        else:
            self._blocks.append((text, False))

    def _write_code(self, text: str) -> None:
        if text.strip():
            longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            self._blocks.append((f"{fence}\n{text}\n{fence}", False))

    def _write_table(self, rows: list[list[str]] | None) -> None:
        kept = [row for row in rows or [] if any(row)]
        width = max(map(len, kept), default=0)
        if width == 1:
            self._blocks += [(cell, False) for row in kept for cell in row]
        elif kept:
            lines = [" | ".join(cell.replace("|", "\\|") for cell in row + [""] * (width - len(row))) for row in kept]
            shown = [f"| {line} |" for line in lines]
            self._blocks.append(("\n".join([shown[0], "|---" * width + "|", *shown[1:]]), False))


def _squeezed(line: list[str]) -> str:
    return re.sub(r" *\n *", "\n", re.sub(" +", " ", "".join(line))).strip()


def _unseen(node: Any, tag: str) -> bool:
    attributes = node.attributes
    if not attributes:
        return False
    return (
        "hidden" in attributes
        or attributes.get("role") == "navigation"
        or bool(NO_DISPLAY.search(attributes.get("style") or ""))
        or (tag == "a" and (attributes.get("href") or "").startswith("#footnote-ref"))  # mammoth's way back
    )
