"""What of a query is looked up as words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_standins import document, index, opened

from inhouse_knowledge.indexer import DATABASE
from inhouse_knowledge.reader import LEXICAL, Reader, match_expression, terms


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        document("returns", "Unused items can be returned within 45 days of delivery."),
        document("boots", "Boots have a warranty of 18 months on the sole."),
        document("tents", "Tents have a warranty of 3 years on the poles."),
    ]
    return index(tmp_path_factory.mktemp("shop"), rows).output


QUERIES = st.lists(
    st.text(max_size=12)
    | st.sampled_from(['"', "'", "NEAR(a b)", "AND", "OR NOT", "*", "^boots", "title:boots", "{a b}:c", "--;", "')"])
    | st.sampled_from(["\x00", "\ud800", "٣", "नमस्ते", "DROP TABLE documents", "boots"]),
    max_size=8,
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(query=QUERIES)
def test_no_query_is_an_expression(shop: Path, query: str) -> None:
    base = opened(shop)
    found = base.search(query, 3)
    assert len(found) == (3 if query.strip() else 0)
    words = opened(shop, dense_weight=0).search(query, 3)
    assert {hit.document for hit in words} <= {"returns", "boots", "tents"}
    if "boots" in query.split():
        assert "boots" in {hit.document for hit in words}
    base.close()


def test_long_queries_are_cut(shop: Path) -> None:
    assert match_expression(terms("a b " * 10)).count("OR") == 1
    assert opened(shop).search(" ".join(f"word{at}" for at in range(100_000)) + " boots", 1)
    assert opened(shop).search("boots " * 100_000, 1)[0].document == "boots"


def test_words_of_most_passages_are_left_out_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inhouse_knowledge.reader.SMALL", 0)
    texts = (
        "The boots of the shop.",
        "The tent and the rope.",
        "The rope of a ship.",
        "A ship in the fog.",
        "The end.",
    )
    rows = [document(f"d{at}", f"{text} Number {at}.") for at, text in enumerate(texts * 4)]
    made = index(tmp_path, rows)
    reader = Reader(made.output / DATABASE)
    for query in ("the boots of the shop", "the rope", "the a ship", "the", "the number", "the zebra"):
        every = reader._rows(LEXICAL, {"words": match_expression(terms(query)), "k": 50, "wanted": None})
        found = reader.lexical(query, 50)
        assert dict(found) == {key: pytest.approx(score, abs=1e-4) for key, score in every[: len(found)]}
        assert all(score < 1e-4 for _, score in every[len(found) :])
    assert len(reader.lexical("the boots", 50)) == 4
    assert len(reader.lexical("the", 50)) == 20, "words of all passages are better than nothing"
    reader.close()
