"""Adding and deleting, each in one transaction that can be done twice without harm."""

from __future__ import annotations

from psycopg import sql

from inhouse_pgvector import catalogue, wire
from inhouse_pgvector.build import copy_in
from inhouse_pgvector.connections import Connection
from inhouse_pgvector.names import Names
from inhouse_vectors.vectors import Ids, Vectors

_STAGED = sql.Identifier("pg_temp", "staged")


def add(connection: Connection, names: Names, collection: int, ids: Ids, rows: Vectors) -> None:
    """Puts unit vectors in; an id that is there is replaced. By rising id, so that two writers cannot lock up."""
    table = names.vectors(collection)
    with connection.transaction():
        catalogue.changing(connection, names, collection)
        create = "CREATE TEMPORARY TABLE staged (id bigint, vector vector({})) ON COMMIT DROP"
        connection.execute(sql.SQL(create).format(sql.Literal(rows.shape[1])))
        copy_in(connection, _STAGED, ids, rows)
        insert = (
            "INSERT INTO {} (id, vector) SELECT id, vector FROM {} ORDER BY id"
            " ON CONFLICT (id) DO UPDATE SET vector = excluded.vector"
        )
        connection.execute(sql.SQL(insert).format(table, _STAGED))


def delete(connection: Connection, names: Names, collection: int, ids: Ids) -> None:
    """Takes ids out; those that are not there are passed over."""
    with connection.transaction():
        catalogue.changing(connection, names, collection)
        statement = sql.SQL("DELETE FROM {} WHERE id = ANY (%s)").format(names.vectors(collection))
        connection.execute(statement, [wire.IdArray(ids)])
