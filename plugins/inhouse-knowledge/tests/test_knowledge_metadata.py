"""Metadata that holds a search, and the page of a passage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from knowledge_standins import HashingEmbedder, document, index, many, opened

from inhouse.errors import DataError
from inhouse_knowledge import Options

REGIONS = [
    document("north-boots", "Boots are returned in the north.", metadata={"tenant": "north", "year": 2025}),
    document("south-boots", "Boots are returned in the south.", metadata={"tenant": "south", "year": [2024, 2025]}),
    document("all-boots", "Boots are returned everywhere.", metadata={"tenant": ["north", "south"], "draft": True}),
    document("boots", "Boots are returned."),
]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ({"tenant": "north"}, {"north-boots", "all-boots"}),
        ({"tenant": ["north", "south"]}, {"north-boots", "south-boots", "all-boots"}),
        ({"tenant": ["north", "south"], "year": 2024}, {"south-boots"}),
        ({"year": 2025.0}, {"north-boots", "south-boots"}),
        ({"year": "2025"}, set()),
        ({"draft": True}, {"all-boots"}),
        ({"draft": 1}, set()),
        ({"tenant": []}, set()),
        ({"tenant' OR 1 --": "north"}, set()),
        ({}, {each["id"] for each in REGIONS}),
        (None, {each["id"] for each in REGIONS}),
    ],
)
@pytest.mark.parametrize("legs", [{}, {"dense_weight": 0}, {"lexical_weight": 0}], ids=["both", "words", "vectors"])
def test_only_documents_with_this_metadata(regions: Path, where: Any, names: set[str], legs: dict[str, float]) -> None:
    base = opened(regions, **legs)
    assert {hit.document for hit in base.search("boots returned", 10, where=where)} == names
    base.close()


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index(tmp_path_factory.mktemp("regions"), REGIONS).output


def test_a_filter_that_is_none_is_refused(regions: Path) -> None:
    for wrong in ({"a": {"b": 1}}, {"a": None}, {"a": [None]}, {"a": float("nan")}):
        with pytest.raises(DataError, match="where: a has to be a string, a number"):
            opened(regions).search("boots", where=wrong)


def test_a_filter_leaves_the_best_of_what_is_left(tmp_path: Path) -> None:
    """With one in forty allowed the answer is that of a base which holds only those."""
    rows = [{**row, "metadata": {"group": at % 40}} for at, row in enumerate(many(400))]
    folders = (index(tmp_path / name, part).output for name, part in (("all", rows), ("few", rows[7::40])))
    base, alone = (opened(folder, lexical_weight=0) for folder in folders)  # BM25 counts words in the whole base
    for query in ("about item47", "thing3", "item7 and thing5"):
        one, other = base.search(query, 6, where={"group": 7}), alone.search(query, 6)
        assert [(hit.document, hit.score) for hit in one] == [(hit.document, hit.score) for hit in other]
        assert len(one) == 6


def test_metadata_goes_with_its_document(tmp_path: Path) -> None:
    first = index(tmp_path / "1", REGIONS)
    moved = [{**REGIONS[0], "metadata": {"tenant": "south"}}, *REGIONS[2:]]
    embedder = HashingEmbedder()
    second = index(tmp_path / "2", moved, embedder=embedder, checkpoints=first.checkpoints)
    assert sum(map(len, embedder.calls)) == 1, "only what changed is embedded"
    found = opened(second.output).search("boots", 10, where={"tenant": "south"})
    assert {hit.document for hit in found} == {"north-boots", "all-boots"}
    assert opened(second.output).search("boots", 10, where={"year": 2024}) == []


def test_a_passage_names_its_page(tmp_path: Path) -> None:
    pages = [f"Page about item{at}. " * 30 for at in range(4)]
    starts = [sum(map(len, pages[:at])) for at in range(4)]
    rows = [document("book", "".join(pages), pages=starts), document("note", "About nothing.")]
    base = opened(index(tmp_path, rows, Options(chunk_tokens=40)).output, dense_weight=0)
    for at in range(4):
        (best, *_) = base.search(f"item{at}", 1)
        assert starts[best.page - 1] <= best.start
        assert best.page == 4 or best.start < starts[best.page]
        assert f"item{at}" in "".join(pages)[best.start : best.end]
    assert base.search("nothing", 1)[0].page == 0
