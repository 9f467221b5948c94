"""The training text that an importance matrix is computed over: a seeded draw of chats or documents, as token ids."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from inhouse.errors import DataError
from inhouse_gguf.template import ChatTemplate

LONGEST = 2048
"""Most tokens of a chat that are used; those beyond are left out, as a training leaves them out."""

PIECE = 512
"""Most tokens of a document that are computed together; each drawn document gives as many at least, if it has them."""

Tokenize = Callable[[str, bool], list[int]]
"""Text to token ids; True: of a chat (special tokens are parsed, none is added), False: of a document."""


@define
class Texts:
    """``sequences`` of token ids, each computed from position 0; ``kind`` of text; ``refused`` by the template."""

    kind: str = ""
    sequences: list[list[int]] = field(factory=list)
    refused: int = 0

    @property
    def tokens(self) -> int:
        """How many there are in all."""
        return sum(map(len, self.sequences))


@frozen
class Draw:
    """How much is drawn: ``tokens`` in all, none beyond position ``context``, in the order of ``seed``."""

    tokenize: Tokenize
    tokens: int
    context: int
    seed: int

    def of(self, chats: Path | None, corpus: Path | None, template: ChatTemplate | None) -> Texts:
        """From the chats (``train.jsonl``), or, without any, from the documents (``corpus.jsonl``).

        Rows are drawn from the whole file, so that one sorted by topic is not judged by its beginning. Without a
        template there are no chats. Raises ``DataError`` with file and row for one that is broken.
        """
        found = Texts()
        if chats is not None and template is not None:
            found = _chats(chats, template, self)
        if not found.sequences and corpus is not None:
            found = _documents(corpus, self, found.refused)
        return found


def _chats(path: Path, template: ChatTemplate, draw: Draw) -> Texts:
    texts, left = Texts("text/chat"), draw.tokens
    for place, row in _drawn(path, draw.seed):
        messages = row.get("messages")
        if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
            raise DataError("this row is no JSON object with messages", where=place)
        try:
            text = template.render(messages)
        except DataError as error:
            error.where = place
            raise
        if text is None:
            texts.refused += 1
            continue
        left -= _keep(texts, draw.tokenize(text, True)[: min(left, LONGEST, draw.context)])
        if left <= 0:
            break
    return texts


def _documents(path: Path, draw: Draw, refused: int) -> Texts:
    texts, left, piece = Texts("text/corpus", refused=refused), draw.tokens, min(PIECE, draw.context)
    share = max(PIECE, -(-draw.tokens // max(1, len(_places(path)))))
    for place, row in _drawn(path, draw.seed):
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError("this row is no JSON object with text", where=place)
        tokens = draw.tokenize(text[: 16 * share], False)[: min(left, share)]
        for start in range(0, len(tokens), piece):
            left -= _keep(texts, tokens[start : start + piece])
        if left <= 0:
            break
    return texts


def _keep(texts: Texts, tokens: list[int]) -> int:
    if tokens:
        texts.sequences.append(tokens)
    return len(tokens)


def _places(path: Path) -> array[int]:
    """Where each line begins that is not blank, in bytes; none when there is no such file."""
    places = array("Q")
    if not path.is_file():
        return places
    with path.open("rb") as file:
        at = 0
        for line in file:
            if line.strip():
                places.append(at)
            at += len(line)
    return places


def _drawn(path: Path, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of the rows of a JSON-lines file, in a seeded order. Raises ``DataError``."""
    places = _places(path)
    order = array("Q", range(len(places)))
    random.Random(seed).shuffle(order)  # noqa: S311  (a draw, not a secret)
    if not order:
        return
    with path.open("rb") as file:
        for number in order:
            file.seek(places[number])
            place = f"{path}, row {number + 1}"
            try:
                row = json.loads(file.readline())
            except (ValueError, RecursionError) as error:
                raise DataError(f"this row is no JSON: {error}", where=place) from error
            if not isinstance(row, dict):
                raise DataError("this row is no JSON object", where=place)
            yield place, row
