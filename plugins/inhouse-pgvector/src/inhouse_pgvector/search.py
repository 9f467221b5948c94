"""The nearest vectors: by the graph, or by comparing with each one that is allowed."""

from __future__ import annotations

from psycopg import sql

from inhouse_pgvector import wire
from inhouse_pgvector.connections import Connection
from inhouse_vectors.vectors import Hit, Ids, Vectors

# "id + 0" keeps the planner from the primary key: the graph is scanned, and the filter looked at on the way.
_GRAPH = "SELECT id, -(vector <#> %s::vector) FROM {table} {where} ORDER BY vector <#> %s::vector LIMIT %s"
_GRAPH_WHERE = "WHERE id + 0 = ANY (%s)"
_EXACT = (
    "SELECT id, round(-(vector <#> %s::vector) * 1e6) / 1e6 AS score FROM {table} {where}"
    " ORDER BY score DESC, id LIMIT %s"
)
_EXACT_WHERE = "WHERE id = ANY (%s)"


def nearest(
    connection: Connection, table: sql.Identifier, query: Vectors, k: int, among: Ids | None, *, exactly: bool
) -> list[Hit]:
    """Up to k (id, cosine similarity) for a unit vector of shape (dimension,), best first, equal ones by id.

    The graph's answer unless ``exactly``; the exact one, too, when the graph gives fewer than k: deleted vectors and
    a filter can hide what is there.
    """
    if among is not None:
        k = min(k, len(among))
    if k < 1:
        return []
    if not exactly:
        found = _by_graph(connection, table, query, k, among)
        if len(found) == k:
            return found
    return _one_by_one(connection, table, query, k, among)


def _by_graph(connection: Connection, table: sql.Identifier, query: Vectors, k: int, among: Ids | None) -> list[Hit]:
    where = sql.SQL(_GRAPH_WHERE if among is not None else "")
    statement = sql.SQL(_GRAPH).format(table=table, where=where)
    vector = wire.NumberArray(query)
    allowed = [] if among is None else [wire.IdArray(among)]
    # Under a filter the scan comes back in parts, each sorted in itself: a nearer one may be in the next.
    rows = connection.execute(statement, [vector, *allowed, vector, 2 * k if allowed else k]).fetchall()
    return wire.ranked(rows, k)


def _one_by_one(connection: Connection, table: sql.Identifier, query: Vectors, k: int, among: Ids | None) -> list[Hit]:
    where = sql.SQL(_EXACT_WHERE if among is not None else "")
    statement = sql.SQL(_EXACT).format(table=table, where=where)
    allowed = [] if among is None else [wire.IdArray(among)]
    rows = connection.execute(statement, [wire.NumberArray(query), *allowed, k]).fetchall()
    return wire.ranked(rows, k)
