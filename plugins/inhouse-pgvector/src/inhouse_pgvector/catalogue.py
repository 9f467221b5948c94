"""Collections: which there are, how one begins, gets its name, and goes.

A collection is a row and a table ``vectors_<id>``. With a generation it is complete, and ``find`` finds it. Without,
it is being written or was changed since; it goes as soon as nobody has it open any more.
"""

from __future__ import annotations

import contextlib

from attrs import frozen
from psycopg import errors, sql

from inhouse_pgvector import Options
from inhouse_pgvector.connections import Connection
from inhouse_pgvector.names import Names

METRIC = "cosine"
GRACE = 10.0
"""Seconds after a server's start in which nobody is taken for dead: the living have to connect again."""


@frozen
class Shape:
    """What a collection must have been made for to be used."""

    dimension: int
    m: int
    ef_construction: int
    metric: str = METRIC

    @classmethod
    def of(cls, options: Options, dimension: int) -> "Shape":
        """Of an index with these options."""
        return cls(dimension, options.m, options.ef_construction)

    def row(self) -> list[object]:
        """In the order of the columns."""
        return [self.dimension, self.metric, self.m, self.ef_construction]


_SAME = "dimension = %s AND metric = %s AND m = %s AND ef_construction = %s"


def find(connection: Connection, names: Names, shape: Shape, generation: int) -> int | None:
    """The collection of that generation, which counts as used now; None when there is none."""
    query = f"SELECT id FROM {{}} WHERE generation = %s AND {_SAME}"  # noqa: S608
    values = [generation, *shape.row()]
    row = connection.execute(sql.SQL(query).format(names.collections), values).fetchone()
    if row is None:
        return None
    with contextlib.suppress(errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege):  # it can be searched
        connection.execute(sql.SQL("UPDATE {} SET used = now() WHERE id = %s").format(names.collections), row)
    return int(row[0])


def rows_of(connection: Connection, names: Names, collection: int) -> int:
    """How many vectors there are. Raises ``UndefinedTable`` when the collection is gone."""
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(names.vectors(collection))).fetchone()
    return int(row[0]) if row else 0


def begin(connection: Connection, names: Names, shape: Shape) -> int:
    """An empty collection without a name or an index, in use for as long as this connection lives."""
    with connection.transaction():
        insert = "INSERT INTO {} (dimension, metric, m, ef_construction) VALUES (%s, %s, %s, %s) RETURNING id"
        row = connection.execute(sql.SQL(insert).format(names.collections), shape.row()).fetchone()
        assert row
        collection = int(row[0])
        # Before the commit, so that nobody ever sees it without an owner.
        connection.execute("SELECT pg_advisory_lock_shared(%s)", [names.alive(collection)])
        # Plain: rows of more than 2 kB stay in one piece, where an exact search reads them.
        create = "CREATE TABLE {} (id bigint PRIMARY KEY, vector vector({}) NOT NULL)"
        vectors = names.vectors(collection)
        connection.execute(sql.SQL(create).format(vectors, sql.Literal(shape.dimension)))
        connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN vector SET STORAGE PLAIN").format(vectors))
    return collection


def make_graph(connection: Connection, names: Names, collection: int, shape: Shape) -> None:
    """The HNSW index, unless it is there. Vectors have length 1: their inner product is their cosine similarity, and
    unlike pgvector's cosine operators it has a value for zero vectors."""
    create = "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector vector_ip_ops) WITH (m = {}, ef_construction = {})"
    parts = [names.graph(collection), names.vectors(collection)]
    built = [sql.Literal(shape.m), sql.Literal(shape.ef_construction)]
    connection.execute(sql.SQL(create).format(*parts, *built))


def name(
    connection: Connection,
    names: Names,
    collection: int,
    shape: Shape,
    generation: int,
    *,
    instead_of: tuple[int, int] | None = None,
) -> int:
    """Makes a collection that of ``generation``, and says how many vectors it has.

    Another of that generation loses its name, and so does ``instead_of`` (id, generation) if it still has that. Those
    who have them open keep them. Raises ``UndefinedTable`` when the collection is gone.
    """
    table = names.collections
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [names.change(collection)])
        count = rows_of(connection, names, collection)
        forget = f"UPDATE {{}} SET generation = NULL WHERE id <> %s AND generation = %s AND {_SAME}"  # noqa: S608
        connection.execute(sql.SQL(forget).format(table), [collection, generation, *shape.row()])
        if instead_of and instead_of[0] != collection:
            replaced = "UPDATE {} SET generation = NULL WHERE id = %s AND generation = %s"
            connection.execute(sql.SQL(replaced).format(table), instead_of)
        named = "UPDATE {} SET generation = %s, count = %s, named = clock_timestamp(), used = now() WHERE id = %s"
        connection.execute(sql.SQL(named).format(table), [generation, count, collection])
    return count


def changing(connection: Connection, names: Names, collection: int) -> None:
    """Takes a collection's name away, inside the transaction that changes its vectors."""
    connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [names.change(collection)])
    update = "UPDATE {} SET generation = NULL WHERE id = %s AND generation IS NOT NULL"
    connection.execute(sql.SQL(update).format(names.collections), [collection])


def sweep(connection: Connection, names: Names, *, keep: int | None = None, grace: float = GRACE) -> int:
    """Drops the collections without a name that nobody has open: leftovers of the killed, and replaced ones.

    Not on a connection that has one open itself, except ``keep``. How many went.
    """
    query = (
        "SELECT id FROM {} WHERE generation IS NULL AND id IS DISTINCT FROM %s"
        " AND pg_postmaster_start_time() < now() - make_interval(secs => %s)"
    )
    rows = connection.execute(sql.SQL(query).format(names.collections), [keep, grace]).fetchall()
    dropped = 0
    for (collection,) in rows:
        with contextlib.suppress(errors.InsufficientPrivilege):  # another user's: for that one to drop
            dropped += drop(connection, names, collection, "generation IS NULL")
    return dropped


def drop(
    connection: Connection, names: Names, collection: int, condition: str, values: tuple[object, ...] = ()
) -> bool:
    """Drops a collection if nobody has it open and the condition (SQL) still holds."""
    with connection.transaction():
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [names.alive(collection)]).fetchone()
        if not row or not row[0]:
            return False
        delete = f"DELETE FROM {{}} WHERE id = %s AND {condition} RETURNING id"  # noqa: S608
        statement = sql.SQL(delete).format(names.collections)
        if connection.execute(statement, [collection, *values]).fetchone() is None:
            return False
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(names.vectors(collection)))
        return True
