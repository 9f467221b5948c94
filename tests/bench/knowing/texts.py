"""Real text: XQuAD's paragraphs with their questions, and pieces of those and of WikiText-2 by number of tokens."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen
from tokenizers import Tokenizer
from training.measure import ROOT, BenchError

DATA = ROOT.parent / "shared" / "data"
XQUAD = DATA / "xquad-en.json"
WIKITEXT = tuple(DATA / f"wikitext2-{split}.txt" for split in ("test", "valid"))
MARKS = (
    (re.compile(r"(?m)^ = .*$"), ""),  # headings
    (re.compile(r"<unk>"), ""),
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r"\s+([.,;:!?%)\]])"), r"\1"),
    (re.compile(r"([(\[])\s+"), r"\1"),
)
"""What WikiText-2 made of the text, and what that was."""

Article = tuple[str, str]
"""Title and text."""


@frozen
class Paragraph:
    """A paragraph of XQuAD, which answers ``questions``; ``title`` is its article's."""

    name: str
    title: str
    text: str
    questions: tuple[str, ...]


@frozen
class Piece:
    """``tokens`` of ``text`` without special ones; ``title`` is that of the article that it was cut from."""

    title: str
    text: str
    tokens: int


def paragraphs(path: Path = XQUAD) -> list[Paragraph]:
    """All of them in the order of the file. Raises ``BenchError`` where there is none."""
    found = []
    for article in json.loads(_read(path))["data"]:
        title = article["title"].replace("_", " ")
        for number, each in enumerate(article["paragraphs"], 1):
            questions = tuple(one["question"].strip() for one in each["qas"])
            found.append(Paragraph(f"{title}/{number}", title, each["context"], questions))
    return found


def articles() -> list[Article]:
    """XQuAD's paragraphs, then the articles of WikiText-2 as running text."""
    found = [(each.title, each.text) for each in paragraphs()]
    for path in WIKITEXT:
        found += wikitext(_read(path))
    return found


def wikitext(text: str) -> list[Article]:
    """The articles of a split, each of which begins with a line ``= Title =``; without headings and marks."""
    found = []
    for each in re.split(r"(?m)^(?= = [^=])", text):
        title, _, body = each.partition("\n")
        if body.strip():
            found.append((_plain(title.strip(" =")) or "Untitled", _plain(body)))
    return found


def _plain(text: str) -> str:
    for pattern, instead in MARKS:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


class Cutter:
    """Cuts articles into pieces; ``model`` is the folder of the encoder, whose tokens are counted."""

    def __init__(self, model: Path, texts: Sequence[Article]) -> None:
        self._articles = [(title, text.split()) for title, text in texts]
        words = sorted({word for _, each in self._articles for word in each})
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        rows = tokenizer.encode_batch_fast(words, add_special_tokens=False)
        # its tokenizer cuts at white space first, so the words' tokens add up
        self._tokens = {word: len(row.ids) for word, row in zip(words, rows, strict=True)}

    def pieces(self, count: int, shortest: int, longest: int, *, seed: int = 7) -> list[Piece]:
        """``count`` different pieces of about ``shortest`` to ``longest`` tokens, every length as often.

        They are cut between words and follow each other; once the text is used up it is cut anew at other places.
        """
        drawn = random.Random(seed)
        found: dict[str, Piece] = {}
        while len(found) < count:
            before = len(found)
            for title, words in self._articles:
                for each in self._cut(title, words, shortest, longest, drawn):
                    found.setdefault(each.text, each)
                if len(found) >= count:
                    break
            if len(found) == before:
                raise BenchError(f"there is no text for {count} pieces of {shortest} to {longest} tokens")
        return list(found.values())[:count]

    def _cut(
        self, title: str, words: Sequence[str], shortest: int, longest: int, drawn: random.Random
    ) -> Iterator[Piece]:
        wanted, tokens, start = drawn.randint(shortest, longest), 0, 0
        for at, word in enumerate(words):
            if tokens and tokens + self._tokens[word] > wanted:
                yield Piece(title, " ".join(words[start:at]), tokens)
                wanted, tokens, start = drawn.randint(shortest, longest), 0, at
            tokens += self._tokens[word]


def write_corpus(folder: Path, pieces: Sequence[Piece]) -> Path:
    """``text/corpus``: a document for each piece, called by its number. Gives ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number, each in enumerate(pieces, 1):
            row = {"id": f"{number:07d}", "title": each.title, "text": each.text, "path": ""}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def lengths(pieces: Sequence[Piece]) -> str:
    """How long they are, for the reader."""
    tokens = [each.tokens for each in pieces]
    return f"{min(tokens)} to {max(tokens)} tokens, {sum(tokens) / len(tokens):.1f} on average"


def _read(path: Path) -> str:
    if not path.is_file():
        raise BenchError(f"there is no text at {path}")
    return path.read_text(encoding="utf-8")
