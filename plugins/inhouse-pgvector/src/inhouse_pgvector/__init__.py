"""Declares the vector store ``pgvector``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attrs import Attribute, field, frozen, validators

from inhouse import VectorStoreSpec, hookimpl

VARIABLE = "INHOUSE_PGVECTOR_URL"
"""Where the database's URL is taken from when the recipe names none."""

_PASSWORD = re.compile(r"(?i)://[^/?@]*:[^@]+@|(?:^|[\s?&])(?:ssl)?password\s*=")


def _without_password(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    """Recipes are passed around, and bundles keep their options. The value itself must not be in the message."""
    if not value.isprintable():
        raise ValueError("'url' must be one line of text")
    if _PASSWORD.search(value):
        raise ValueError(f"'url' holds a password; that belongs into PGPASSWORD, ~/.pgpass or {VARIABLE}")


def _schema(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    """What PostgreSQL takes as a name, quoted: 1 to 63 bytes; its own begin with ``pg_``. psycopg reads a percent sign
    as the begin of a parameter, also within a name."""
    fits = value.isprintable() and 1 <= len(value.encode("utf-8", "replace")) <= 63
    if not fits or value.startswith("pg_") or "%" in value:
        raise ValueError("'schema' must be a name of 1 to 63 bytes, without %, that does not begin with pg_")


@frozen
class Options:
    """Where the vectors lie, and how they are indexed and searched; cosine similarity always."""

    url: str = field(
        default="",
        validator=_without_password,
        metadata={
            "help": f"libpq's URL or key=value string, without a password (empty: {VARIABLE}); another machine needs"
            " [run] network = true",
            "counts": False,
        },
    )
    schema: str = field(
        default="inhouse", validator=_schema, metadata={"help": "the database schema for the tables", "counts": False}
    )
    m: int = field(
        default=16,
        validator=[validators.ge(2), validators.le(100)],
        metadata={"help": "neighbours of each node; more finds more and takes more memory"},
    )
    ef_construction: int = field(
        default=200,
        validator=[validators.ge(4), validators.le(1_000)],
        metadata={"help": "candidates looked at while building; at least 2 * m"},
    )
    ef_search: int = field(
        default=200,
        validator=[validators.ge(1), validators.le(1_000)],
        metadata={"help": "candidates looked at while searching"},
    )
    exact_below: int = field(
        default=20_000,
        validator=validators.ge(0),
        metadata={"help": "compare with every vector when at most so many are left (few rows, a filter)"},
    )
    connections: int = field(
        default=4,
        validator=[validators.ge(1), validators.le(1_000)],
        metadata={"help": "most connections of one open base; as many calls run at once", "counts": False},
    )
    patience: float = field(
        default=30.0,
        validator=[validators.ge(0), validators.lt(float("inf"))],
        metadata={"help": "seconds that a lost server is waited for", "counts": False},
    )

    def __attrs_post_init__(self) -> None:
        if self.ef_construction < 2 * self.m:
            raise ValueError(f"'ef_construction' must be at least 2 * m = {2 * self.m}")


@hookimpl
def inhouse_vector_stores() -> Iterator[VectorStoreSpec]:
    """The one store of this distribution. It asks the seal itself whether a host may be reached, so a database on
    this machine needs no network: the feature ``network`` would refuse that too."""
    yield VectorStoreSpec(
        name="pgvector",
        summary="PostgreSQL with pgvector: HNSW, shared by processes and machines",
        factory="inhouse_pgvector.store:PgvectorStore",
        options=Options,
        features=frozenset({"filter", "delete"}),
    )
