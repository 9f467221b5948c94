"""An open collection: its connections say to everybody else that it is in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attrs import define
from psycopg import errors

from inhouse.errors import ResourceError
from inhouse_pgvector import catalogue
from inhouse_pgvector.connections import Connection, Pool, Server

T = TypeVar("T")


@define(eq=False)
class Opened:
    """``generation`` is None after a change. ``rows`` is about how many vectors there are: it decides between two
    ways of searching that are both right."""

    server: Server
    collection: int
    generation: int | None
    pool: Pool
    rows: int = 0

    def run(self, work: Callable[[Connection], T]) -> T:
        """See :meth:`Pool.run`. Raises ``ResourceError`` when somebody dropped the collection."""
        try:
            return self.pool.run(work)
        except errors.UndefinedTable as error:
            raise ResourceError(
                f"collection {self.collection} was dropped",
                where=self.server.place,
                hint="open the knowledge base again: it fills the index anew",
            ) from error

    def close(self) -> None:
        """Lets go of it."""
        self.pool.close()


def join(server: Server, collection: int, generation: int | None) -> Opened | None:
    """Opens a collection; None when it was dropped before its first connection said that it is in use."""
    made = Opened(server, collection, generation, server.pool(collection))
    try:
        made.rows = made.pool.run(lambda connection: catalogue.rows_of(connection, server.names, collection))
    except errors.UndefinedTable:
        made.close()
        return None
    except BaseException:
        made.close()
        raise
    return made
