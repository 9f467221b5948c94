"""Recall and nDCG of a search on questions, worked out by hand where they can be."""

from __future__ import annotations

from math import log2
from pathlib import Path

import pytest
from knowledge_standins import document, index, many, opened

from inhouse.errors import DataError
from inhouse_knowledge import Options
from inhouse_knowledge.quality import (
    LEXICAL_WEIGHTS,
    Question,
    Score,
    best,
    made_questions,
    measure,
    read_questions,
)

PETS = [
    document("cats", "Cats purr."),
    document("dogs", "Dogs bark and cats run."),
    document("fish", "Fish swim."),
]


def silent(_: int) -> None: ...


def test_figures_are_those_of_the_ranks(tmp_path: Path) -> None:
    base = opened(index(tmp_path, PETS).output)
    questions = [
        Question("fish swim", frozenset({"fish"})),
        Question("cats", frozenset({"cats", "dogs"})),
        Question("dogs bark cats run", frozenset({"cats"})),
    ]
    words, vectors, *fused = measure(base, questions, silent)
    assert (words.dense_weight, words.lexical_weight, vectors.dense_weight, vectors.lexical_weight) == (0, 1, 1, 0)
    assert [each.lexical_weight for each in fused] == list(LEXICAL_WEIGHTS)
    assert words.gains == pytest.approx((1.0, 1.0, 1 / log2(3)))
    assert (words.recall_1, words.recall_5) == pytest.approx((2 / 3, 1.0))
    assert words.ndcg_10 == pytest.approx((2 + 1 / log2(3)) / 3)


def test_a_document_that_is_not_found_gains_nothing(tmp_path: Path) -> None:
    base = opened(index(tmp_path, PETS).output)
    words, *_ = measure(base, [Question("bark", frozenset({"fish"})), Question("swim", frozenset({"fish"}))], silent)
    assert (words.gains, words.recall_5) == ((0.0, 1.0), 0.5)


def test_both_legs_win_only_where_they_measure_better() -> None:
    def score(dense: float, lexical: float, gain: float) -> Score:
        return Score(dense, lexical, 0, 0, (gain,))

    words, vectors, both, more = score(0, 1, 0.8), score(1, 0, 0.9), score(1, 0.2, 0.9), score(1, 0.5, 0.9)
    assert best([words, both, more, vectors]) is vectors
    assert best([words, more, both]) is both
    assert best([words, score(1, 0.2, 0.91), vectors]).is_fused


def test_questions_are_read_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    known = {1: "cats", 2: "dogs"}
    path.write_text('{"question": "a?", "document": "cats"}\n\n{"question": "b?", "documents": ["cats", "dogs"]}\n')
    assert read_questions(path, known) == [
        Question("a?", frozenset({"cats"})),
        Question("b?", frozenset({"cats", "dogs"})),
    ]
    for line, why in (
        ("{", "is no JSON"),
        ("[]", "a row needs"),
        ('{"question": " ", "document": "cats"}', "a row needs"),
        ('{"question": "a?"}', "there is no document None"),
        ('{"question": "a?", "documents": []}', "a row needs"),
        ('{"question": "a?", "document": "fish"}', "there is no document 'fish'"),
    ):
        path.write_text('{"question": "a?", "document": "cats"}\n' + line)
        with pytest.raises(DataError, match=why) as caught:
            read_questions(path, known)
        assert str(caught.value.where).endswith("questions.jsonl:2")
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no question"):
        read_questions(path, known)
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl", known)


def test_made_questions_are_answered_by_other_passages(tmp_path: Path) -> None:
    base = opened(index(tmp_path, many(60), Options(chunk_tokens=40)).output)
    questions = made_questions(base.reader, 5, seed=0)
    assert questions == made_questions(base.reader, 5, seed=0)
    owners = base.reader.owners()
    assert len(questions) == 5
    for each in questions:
        (hidden,) = each.hidden
        (name,) = each.documents
        assert owners[hidden] == name
        assert list(owners.values()).count(name) > 1
        assert each.text in base.reader.passages([hidden])[hidden].text
    assert len(made_questions(base.reader, 100, seed=0)) == 7, "only documents of several passages"
    (words, vectors, *_) = measure(base, questions, silent)
    assert words.recall_5 == vectors.recall_5 == 1.0
    assert made_questions(opened(index(tmp_path / "short", PETS).output).reader, 5, seed=0) == []
