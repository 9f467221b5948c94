"""For whoever looks after the database: which collections there are, and away with those that nobody uses."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen
from psycopg import sql

from inhouse_pgvector import Options, catalogue, schema
from inhouse_pgvector.address import resolve
from inhouse_pgvector.connections import Connection, Server


@frozen
class Collection:
    """One row of the table. ``generation`` is None while it is written, and after a change; ``bytes`` with index."""

    id: int
    generation: int | None
    dimension: int
    count: int
    made: datetime
    used: datetime
    bytes: int


def collections(options: Options) -> list[Collection]:
    """All collections of a schema, the one that was opened last first. Raises ``ResourceError``."""
    server = Server(resolve(options.url), options)
    query = sql.SQL(
        "SELECT id, generation, dimension, count, made, used,"
        " coalesce(pg_total_relation_size(to_regclass(format('%I.%I', {schema}::text, 'vectors_' || id))), 0)"
        " FROM {table} ORDER BY used DESC, id"
    ).format(schema=sql.Literal(options.schema), table=server.names.collections)

    def listed(connection: Connection) -> list[Collection]:
        if not schema.there(connection, server):
            return []
        return [Collection(*row) for row in connection.execute(query).fetchall()]

    return server.patiently(listed)


def forget(options: Options, *, days: float) -> list[int]:
    """Drops collections that nobody opened for so many days, and leftovers; never one that somebody has open.

    Gives the ids of the former. A base whose collection is gone fills a new one when it is opened.
    """
    server = Server(resolve(options.url), options)
    old = "generation IS NOT NULL AND used <= now() - make_interval(secs => %s)"

    def forgotten(connection: Connection) -> list[int]:
        if not schema.there(connection, server):
            return []
        names, seconds = server.names, days * 86_400
        catalogue.sweep(connection, names)
        query = f"SELECT id FROM {{}} WHERE {old} ORDER BY id"  # noqa: S608
        rows = connection.execute(sql.SQL(query).format(names.collections), [seconds]).fetchall()
        return [row[0] for row in rows if catalogue.drop(connection, names, row[0], old, (seconds,))]

    return server.patiently(forgotten)
