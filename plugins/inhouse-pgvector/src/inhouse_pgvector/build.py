"""Rebuilding: rows in by COPY, the graph over them, and the name in the last transaction.

Killed at any point, the old collection is whole and the new one has no name, so nobody opens it and the next sweep
drops it.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime

import psycopg
from psycopg import sql

from inhouse_pgvector import catalogue
from inhouse_pgvector.catalogue import Shape
from inhouse_pgvector.connections import Connection, Server
from inhouse_pgvector.wire import copied
from inhouse_vectors.vectors import Ids, Vectors

BATCH_BYTES = 16 << 20  # of one transaction of COPY
MOST_MEMORY = 1 << 30
"""Bytes of ``maintenance_work_mem`` at most where the server's own setting is less."""


class Build:
    """One rebuild. ``attempt`` goes on where the last one stopped, after the server was away."""

    def __init__(
        self,
        server: Server,
        shape: Shape,
        generation: int,
        ids: Ids,
        rows: Vectors,
        instead_of: tuple[int, int] | None,
    ) -> None:
        self._server = server
        self._shape = shape
        self._generation = generation
        self._ids = ids
        self._rows = rows
        self._instead_of = instead_of
        self._collection: int | None = None
        self._since: datetime | None = None

    def attempt(self, connection: Connection) -> int:
        """The finished collection, in use while ``connection`` lives. Raises ``psycopg.Error``."""
        names = self._server.names
        if self._since is None:
            self._since = _clock(connection)
        self._wait_for_others(connection)
        found = self._built_meanwhile(connection)
        if found is not None:
            return found
        catalogue.sweep(connection, names, keep=self._collection)
        collection = self._taken_up(connection)
        _prepare(connection, len(self._ids), self._shape)
        self._fill(connection, collection)
        logging.getLogger(__name__).info("building the graph of %d vectors", len(self._ids))
        catalogue.make_graph(connection, names, collection, self._shape)
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(names.vectors(collection)))
        catalogue.name(connection, names, collection, self._shape, self._generation, instead_of=self._instead_of)
        return collection

    def _wait_for_others(self, connection: Connection) -> None:
        """One process builds a generation; the others wait for it rather than do the same work beside it."""
        lock = [self._server.names.building(self._generation)]
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", lock).fetchone()
        if row and row[0]:
            return
        logging.getLogger(__name__).info("another process builds this index; waiting for it")
        connection.execute("SET statement_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(%s)", lock)

    def _built_meanwhile(self, connection: Connection) -> int | None:
        """What another finished after this call began: the same generation, so the same vectors."""
        names = self._server.names
        found = catalogue.find(connection, names, self._shape, self._generation)
        if found is None:
            return None
        query = sql.SQL("SELECT named >= %s AND count = %s FROM {} WHERE id = %s").format(names.collections)
        row = connection.execute(query, [self._since, len(self._ids), found]).fetchone()
        if not row or not row[0]:
            return None
        connection.execute("SELECT pg_advisory_lock_shared(%s)", [names.alive(found)])
        return found

    def _taken_up(self, connection: Connection) -> int:
        """The collection of the attempt before if it is still there, else a new one."""
        names = self._server.names
        if self._collection is not None:
            connection.execute("SELECT pg_advisory_lock_shared(%s)", [names.alive(self._collection)])
            query = sql.SQL("SELECT 1 FROM {} WHERE id = %s").format(names.collections)
            if connection.execute(query, [self._collection]).fetchone():
                return self._collection
        self._collection = catalogue.begin(connection, names, self._shape)
        return self._collection

    def _fill(self, connection: Connection, collection: int) -> None:
        """All rows, a batch in each transaction; a batch that is there, is there whole."""
        table = self._server.names.vectors(collection)
        size = max(1, BATCH_BYTES // (4 * self._shape.dimension + 40))
        for start in range(0, len(self._ids), size):
            ids, rows = self._ids[start : start + size], self._rows[start : start + size]
            with connection.transaction():
                query = sql.SQL("SELECT 1 FROM {} WHERE id = %s").format(table)
                if connection.execute(query, [int(ids[0])]).fetchone() is None:
                    copy_in(connection, table, ids, rows)
            done = start + len(ids)
            logging.getLogger(__name__).info("copied %d of %d vectors", done, len(self._ids))


def copy_in(connection: Connection, table: sql.Identifier, ids: Ids, rows: Vectors) -> None:
    """COPY into ``table (id, vector)``."""
    command = sql.SQL("COPY {} (id, vector) FROM STDIN (FORMAT BINARY)").format(table)
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        for piece in copied(ids, rows):
            copy.write(piece)


def _clock(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row
    found: datetime = row[0]
    return found


def _prepare(connection: Connection, count: int, shape: Shape) -> None:
    """Room for the whole graph: when it no longer fits, pgvector goes on many times slower. And no time limit."""
    node = 4 * shape.dimension + 2 * shape.m * 24 + 300  # src/hnsw.h: the vector, its neighbours, the element
    wanted = min(count * node * 5 // 4, MOST_MEMORY) >> 10
    connection.execute(
        "SELECT set_config('maintenance_work_mem', greatest(setting::bigint, %s)::text, false),"
        " set_config('statement_timeout', '0', false) FROM pg_settings WHERE name = 'maintenance_work_mem'",
        [wanted],
    )
    with contextlib.suppress(psycopg.Error):  # a killed builder is noticed before its graph is done; not on Windows
        connection.execute("SET client_connection_check_interval = '2s'")
