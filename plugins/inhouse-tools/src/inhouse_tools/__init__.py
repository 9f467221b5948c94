"""The tools ``search_knowledge``, ``calculator`` and ``sqlite``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen, validators

from inhouse import ToolSpec, hookimpl
from inhouse.values import is_metadata


def _plain(instance: object, attribute: object, where: dict[str, Any]) -> None:
    for key, value in where.items():
        if not is_metadata(value):
            raise ValueError(f"where: {key!r} is {value!r}, no string, number, boolean or list of those")


@frozen
class SearchOptions:
    """How much a search shows."""

    results: int = field(
        default=3,
        validator=[validators.ge(1), validators.le(20)],
        metadata={"help": "passages shown at most"},
    )
    where: dict[str, Any] = field(
        factory=dict,
        validator=_plain,
        metadata={"help": "only documents whose metadata has each of these values (one of a list)"},
    )


@frozen
class ParameterOptions:
    """One argument of a look-up, by the name it has in the query."""

    type: Literal["string", "number", "integer", "boolean"] = field(
        default="string", metadata={"help": "type of the value"}
    )
    description: str = field(default="", metadata={"help": "what it is, for the model"})
    pattern: str | None = field(
        default=None, metadata={"help": "regular expression over the whole value (strings only)"}
    )


@frozen
class SqliteOptions:
    """One read-only look-up in a database."""

    database: Path = field(metadata={"help": "SQLite file; opened read-only"})
    query: str = field(metadata={"help": "one SELECT with :named parameters"})
    description: str = field(default="", metadata={"help": "what the look-up finds, for the model"})
    parameters: dict[str, ParameterOptions] = field(
        factory=dict, metadata={"help": "the arguments, in the order the model writes them"}
    )
    limit: int = field(
        default=3, validator=[validators.ge(1), validators.le(100)], metadata={"help": "rows shown at most"}
    )
    time_limit: float = field(
        default=2.0, validator=validators.gt(0), metadata={"help": "seconds before a look-up is stopped"}
    )


@hookimpl
def inhouse_tools() -> Iterator[ToolSpec]:
    """Declares the tools."""
    yield ToolSpec(
        name="search_knowledge",
        summary="searches the knowledge base",
        factory="inhouse_tools.knowledge:SearchKnowledge",
        options=SearchOptions,
    )
    yield ToolSpec(
        name="calculator",
        summary="calculates with decimal numbers",
        factory="inhouse_tools.calculator:Calculator",
    )
    yield ToolSpec(
        name="sqlite",
        summary="looks up rows in a SQLite database with one fixed, read-only query",
        factory="inhouse_tools.sqlite:SqliteLookup",
        options=SqliteOptions,
    )
