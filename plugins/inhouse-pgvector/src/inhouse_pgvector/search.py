"""The nearest vectors: by the graph, or by comparing with each one that is allowed."""

from __future__ import annotations

import numpy as np
from psycopg import sql

from inhouse_pgvector import wire
from inhouse_pgvector.connections import Connection
from inhouse_vectors.vectors import Hit, Ids, Vectors, best

_GRAPH = "SELECT id, -(vector <#> %s::vector) FROM {table} ORDER BY vector <#> %s::vector LIMIT %s"
_EXACT = (
    "SELECT id, round(-(vector <#> %s::vector) * 1e6) / 1e6 AS score FROM {table} {where}"
    " ORDER BY score DESC, id LIMIT %s"
)
_EXACT_WHERE = "WHERE id = ANY (%s)"

SPARE = 4
"""How many times more nodes are asked for than hold k allowed ones, where a filter has nothing to do with the query."""


def nearest(
    connection: Connection,
    table: sql.Identifier,
    query: Vectors,
    k: int,
    among: Ids | None,
    *,
    rows: int,
    exact_below: int,
) -> list[Hit]:
    """Up to k (id, cosine similarity) for a unit vector of shape (dimension,), best first, equal ones by id.

    ``rows``: how many the table has, about. The exact answer where at most ``exact_below`` are left, else the graph's;
    and the exact one, too, when the graph's nearest (:func:`depth`) have fewer than k: deleted vectors hide some, or
    the filter leaves what is far from the query, where a graph does not find well.
    """
    if among is not None:
        k = min(k, len(among))
    if k < 1:
        return []
    left = rows if among is None else min(rows, len(among))
    if left > exact_below:
        found = _by_graph(connection, table, query, k if among is None else depth(k, left, rows))
        if among is not None:
            # here, since the wire takes longer for many ids than for some hundred rows
            allowed = np.isin([key for key, _ in found], among)
            found = [hit for hit, fits in zip(found, allowed, strict=True) if fits]
        if len(found) >= k:
            return best(found, k)
    return _one_by_one(connection, table, query, k, among)


def depth(k: int, left: int, rows: int) -> int:
    """How many of the nearest are asked for, so that k of them are allowed if ``left`` of ``rows`` are."""
    return -(-SPARE * k * max(rows, left) // left)


def _by_graph(connection: Connection, table: sql.Identifier, query: Vectors, count: int) -> list[Hit]:
    vector = wire.NumberArray(query)
    return connection.execute(sql.SQL(_GRAPH).format(table=table), [vector, vector, count]).fetchall()


def _one_by_one(connection: Connection, table: sql.Identifier, query: Vectors, k: int, among: Ids | None) -> list[Hit]:
    where = sql.SQL(_EXACT_WHERE if among is not None else "")
    statement = sql.SQL(_EXACT).format(table=table, where=where)
    allowed = [] if among is None else [wire.IdArray(among)]
    return best(connection.execute(statement, [wire.NumberArray(query), *allowed, k]).fetchall(), k)
