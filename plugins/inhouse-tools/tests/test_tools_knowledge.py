"""The search tool over a small knowledge base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from inhouse.errors import RecipeError
from inhouse.protocols import ToolContext
from inhouse.values import Passage
from inhouse_tools import SearchOptions, inhouse_tools
from inhouse_tools.knowledge import SearchKnowledge

PASSAGES = [
    Passage("returns-window", 0, "Returns", "Within\n 30 days.", 0, 15, 0.9),
    Passage("gift-cards", 0, "Gift cards", "Valid for 4 years.", 0, 18, 0.4),
]


class Base:
    """Finds everything, or nothing."""

    def __init__(self, passages: list[Passage]) -> None:
        self.passages = passages

    def search(self, query: str, k: int = 5, *, where: Mapping[str, Any] | None = None) -> list[Passage]:
        self.where = where
        return self.passages[:k]

    def close(self) -> None: ...


def test_passages_are_one_line_with_their_ids() -> None:
    tool = SearchKnowledge(SearchOptions(), ToolContext("search_knowledge", Base(PASSAGES)))
    observation = tool.call({"query": "return"})
    assert observation.text == (
        "[returns-window] Returns: Within 30 days. | [gift-cards] Gift cards: Valid for 4 years."
    )
    assert list(observation.passages) == PASSAGES


def test_as_many_as_the_options_say() -> None:
    tool = SearchKnowledge(SearchOptions(results=1), ToolContext("search_knowledge", Base(PASSAGES)))
    assert tool.call({"query": "return"}).text == "[returns-window] Returns: Within 30 days."


def test_only_documents_that_the_recipe_names() -> None:
    base = Base(PASSAGES)
    SearchKnowledge(SearchOptions(where={"tenant": "north"}), ToolContext("search_knowledge", base)).call(
        {"query": "x"}
    )
    assert base.where == {"tenant": "north"}
    with pytest.raises(ValueError, match="where: 'tenant' is None, no string"):
        SearchOptions(where={"tenant": None})


def test_nothing_found_and_nothing_asked() -> None:
    tool = SearchKnowledge(SearchOptions(), ToolContext("search_knowledge", Base([])))
    assert tool.call({"query": "return"}).text == "no match"
    assert tool.call({"query": " "}).text == "error: query is empty"


def test_without_a_knowledge_base_the_recipe_is_wrong() -> None:
    with pytest.raises(RecipeError, match="needs a knowledge base"):
        SearchKnowledge(SearchOptions(), ToolContext("search_knowledge"))


def test_the_specs_are_declared() -> None:
    assert [spec.name for spec in inhouse_tools()] == ["search_knowledge", "calculator", "sqlite"]
