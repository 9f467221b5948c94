"""How well a base is searched: recall and nDCG on questions whose documents are known."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import log2
from pathlib import Path
from statistics import median

from attrs import evolve, frozen

from inhouse.errors import DataError
from inhouse_knowledge.reader import Reader
from inhouse_knowledge.search import DEPTH, Legs, SqliteKnowledge

LEXICAL_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Beside a dense weight of 1. Only their ratio decides the order."""

CUT = 10  # passages that nDCG looks at
WORDS = re.compile(r"\w+")


@frozen
class Question:
    """What is asked, the documents that answer it, and ids of chunks that it was made of: those are not looked for."""

    text: str
    documents: frozenset[str]
    hidden: frozenset[int] = frozenset()


@frozen
class Score:
    """One setting on a set of questions; ``gains`` are each question's nDCG@10, ``seconds`` the median that a search
    with both legs takes."""

    dense_weight: float
    lexical_weight: float
    recall_1: float
    recall_5: float
    gains: tuple[float, ...]
    seconds: float = 0.0

    @property
    def ndcg_10(self) -> float:
        """The mean of ``gains``."""
        return sum(self.gains) / len(self.gains)

    @property
    def is_fused(self) -> bool:
        """Whether both legs have a weight."""
        return self.dense_weight > 0 and self.lexical_weight > 0


def read_questions(path: Path, known: Mapping[int, str]) -> list[Question]:
    """Rows of JSON lines: ``question``, and ``documents`` (a list of ids) or ``document``.

    Raises ``DataError`` with file and line for a row without them, or with a document that the base has not.
    """
    names, questions = set(known.values()), []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"is no JSON: {error}", where=where) from error
        text = row.get("question") if isinstance(row, dict) else None
        wanted = row.get("documents", [row.get("document")]) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip() or not isinstance(wanted, list) or not wanted:
            raise DataError('a row needs "question", and "documents" or "document"', where=where)
        absent = [each for each in wanted if not isinstance(each, str) or each not in names]
        if absent:
            raise DataError(f"there is no document {absent[0]!r} in the base", where=where)
        questions.append(Question(text, frozenset(wanted)))
    if not questions:
        raise DataError("holds no question", where=str(path))
    return questions


def made_questions(reader: Reader, most: int, seed: int) -> list[Question]:
    """Questions out of held-out passages: the first sentence of one, which its document's other passages answer.

    Only of documents with at least two passages. The question's own passage may not be found.
    """
    drawn = random.Random(seed)  # noqa: S311  no secret
    chosen = []
    for name, items in groupby(reader.owners().items(), key=lambda item: item[1]):
        keys = [key for key, _ in items]
        if len(keys) > 1:
            chosen.append((name, drawn.choice(keys)))
    drawn.shuffle(chosen)
    passages = reader.passages([key for _, key in chosen])
    questions = []
    for name, key in chosen:
        sentence = re.split(r"(?<=[.!?…])\s|\n", passages[key].text, maxsplit=1)[0]
        if len(WORDS.findall(sentence)) >= 4:
            questions.append(Question(sentence, frozenset([name]), frozenset([key])))
    return questions[:most]


def measure(base: SqliteKnowledge, questions: Sequence[Question], tell: Callable[[int], None]) -> list[Score]:
    """Each leg alone and both by weight, in the order of :data:`LEXICAL_WEIGHTS`; ``base`` searches with both legs."""
    owners = base.reader.owners()
    found, seconds = [], []
    base.legs("warm up", 1)
    for done, question in enumerate(questions):
        tell(done)
        begun = time.perf_counter()
        legs = base.legs(question.text, DEPTH + len(question.hidden))
        seconds.append(time.perf_counter() - begun)
        found.append(_without(legs, question.hidden))
    weights = [(0.0, 1.0), (1.0, 0.0), *((1.0, each) for each in LEXICAL_WEIGHTS)]
    scores = [_score(dense, lexical, found, questions, owners) for dense, lexical in weights]
    return [evolve(each, seconds=median(seconds)) for each in scores]


def _without(legs: Legs, hidden: frozenset[int]) -> Legs:
    words = {key: share for key, share in legs.words.items() if key not in hidden}
    top = max(words.values(), default=1.0)
    vectors = {key: cosine for key, cosine in legs.vectors.items() if key not in hidden}
    return Legs({key: share / top for key, share in words.items()}, vectors)


def _score(
    dense: float, lexical: float, found: Sequence[Legs], questions: Sequence[Question], owners: Mapping[int, str]
) -> Score:
    orders = [[owners[key] for key, _ in legs.fused(dense, lexical)[:CUT]] for legs in found]
    ranks = [list(_ranks(order, each.documents)) for order, each in zip(orders, questions, strict=True)]
    first, fifth = (sum(any(at <= k for at in each) for each in ranks) / len(ranks) for k in (1, 5))
    gains = [_gain(each) / _gain(range(1, len(one.documents) + 1)) for each, one in zip(ranks, questions, strict=True)]
    return Score(dense, lexical, first, fifth, tuple(gains))


def _ranks(order: Sequence[str], wanted: frozenset[str]) -> Iterator[int]:
    """From 1: where a wanted document comes for the first time."""
    left = set(wanted)
    for at, name in enumerate(order, 1):
        if name in left:
            left.discard(name)
            yield at


def _gain(ranks: Iterable[int]) -> float:
    """Discounted cumulative gain (Järvelin and Kekäläinen, 2002) of the ranks up to 10."""
    return sum(1 / log2(1 + at) for at in ranks if at <= CUT)


def best(scores: Sequence[Score]) -> Score:
    """The highest nDCG@10; of equal ones a single leg, then the smallest lexical weight."""
    return max(scores, key=lambda each: (round(each.ndcg_10, 9), not each.is_fused, -each.lexical_weight))
