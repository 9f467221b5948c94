"""The tool ``search_knowledge``."""

from __future__ import annotations

from collections.abc import Mapping

from inhouse.errors import RecipeError
from inhouse.protocols import ToolContext
from inhouse.values import Json, Observation, Parameter, Passage, ToolSchema

from . import SearchOptions
from .arguments import argument_error


class SearchKnowledge:
    """Searches the knowledge base; each passage begins with the id that an answer cites."""

    def __init__(self, options: SearchOptions, context: ToolContext) -> None:
        if context.knowledge is None:
            raise RecipeError(
                f"the tool '{context.name}' needs a knowledge base, and there is none",
                where=f"tools.{context.name}",
                hint="add a [knowledge] table to the recipe, or take the tool out of [agent] tools",
            )
        self.options = options
        self.knowledge = context.knowledge
        self.schema = ToolSchema(
            context.name,
            "Searches the knowledge base.",
            (Parameter("query", description="a few words on what to find"),),
        )

    def call(self, arguments: Mapping[str, Json]) -> Observation:
        """``[id] Title: text``, several joined by `` | ``; ``no match`` when nothing is found."""
        problem = argument_error(self.schema, arguments)
        if problem is not None:
            return Observation(f"error: {problem}", error=True)
        passages = tuple(self.knowledge.search(arguments["query"], self.options.results, where=self.options.where))
        if not passages:
            return Observation("no match")
        return Observation(" | ".join(_shown(passage) for passage in passages), passages)


def _shown(passage: Passage) -> str:
    return f"[{passage.document}] {passage.title}: {' '.join(passage.text.split())}"
