"""One real server for all tests here, and a schema of its own for each test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from inhouse_pgvector import Options
from inhouse_pgvector.store import PgvectorStore
from support import postgres

sys.path.insert(0, str(Path(__file__).parent))  # makes pgvector_helpers importable

Make = Callable[..., PgvectorStore]


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A PostgreSQL with pgvector that stays up."""
    with postgres.running(_folder()) as found:
        _hurry(found)
        yield found


@pytest.fixture(scope="session")
def other() -> Iterator[Any]:
    """A second one, for tests that stop and start it."""
    with postgres.running(_folder()) as found:
        _hurry(found)
        yield found


def _hurry(server: Any) -> None:
    """Nothing here cuts the power: processes die, and the machine stays."""
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


def _folder() -> Path:
    """Not in pytest's own: each pytest of the same user that starts closes that to other users, and as root the server
    runs as another. The server removes it."""
    return Path(mkdtemp(prefix="inhouse-pgvector-"))


@pytest.fixture
def schema() -> str:
    """A schema that no other test uses."""
    return f"t_{uuid4().hex[:12]}"


@pytest.fixture
def url(server: Any) -> str:
    """The first server's."""
    found: str = server.get_uri()
    return found


@pytest.fixture
def make(url: str, schema: str) -> Iterator[Make]:
    """Makes stores over this test's schema, and closes them."""
    made: list[PgvectorStore] = []

    def new(**options: Any) -> PgvectorStore:
        made.append(PgvectorStore(Options(**{"url": url, "schema": schema, "connections": 8, **options})))
        return made[-1]

    yield new
    for each in made:
        each.close()


@pytest.fixture
def raw(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection beside the store's."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
