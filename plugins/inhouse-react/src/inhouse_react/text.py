"""Text that goes to the model, and citations in text that comes from it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from inhouse.values import Citation, Passage

_CITED = re.compile(r"[ \t]*\[([^\[\]\s]{1,200})\]")


def harmless(text: str) -> str:
    """Text without control characters and without what opens a special token of a chat template.

    Documents, rows and questions are other people's: ``<|im_end|>`` in one would end the turn, since
    engines parse special tokens in the rendered chat.
    """
    cleaned = "".join(char for char in text if (char >= " " and char != "\x7f") or char in "\n\t")
    return cleaned.replace("<|", "< |").replace("|>", "| >")


def one_line(text: str, limit: int) -> str:
    """The text on one line, at most ``limit`` characters, with ``…`` where it was cut."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def resolve_citations(text: str, seen: Mapping[str, Passage]) -> tuple[str, tuple[Citation, ...]]:
    """Turns ``[document-id]`` into citations, each document once, in the order of the text.

    A bracketed id that no observation showed is made up: it is no citation, and it is taken out of the
    text as well, so that a reader is not sent after it.
    """
    cited: dict[str, Citation] = {}

    def keep(match: re.Match[str]) -> str:
        passage = seen.get(match[1])
        if passage is None:
            return ""
        cited.setdefault(passage.document, _citation(passage))
        return match[0]

    cleaned = _CITED.sub(keep, text).strip()
    return cleaned, tuple(cited.values())


def _citation(passage: Passage) -> Citation:
    return Citation(passage.document, passage.title, passage.start, passage.end, passage.page)
