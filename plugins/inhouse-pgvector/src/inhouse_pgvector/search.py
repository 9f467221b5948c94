"""The nearest vectors: by the graph, or by comparing with each one that is allowed."""

from __future__ import annotations

from psycopg import sql

from inhouse_pgvector import wire
from inhouse_pgvector.connections import Connection
from inhouse_vectors.vectors import Hit, Ids, Vectors, best

# "id + 0" keeps the planner from the primary key: the graph is scanned, and the filter looked at on the way.
_GRAPH = "SELECT id, -(vector <#> %s::vector) FROM {table} {where} ORDER BY vector <#> %s::vector LIMIT %s"
_GRAPH_WHERE = "WHERE id + 0 = ANY (%s)"
_EXACT = (
    "SELECT id, round(-(vector <#> %s::vector) * 1e6) / 1e6 AS score FROM {table} {where}"
    " ORDER BY score DESC, id LIMIT %s"
)
_EXACT_WHERE = "WHERE id = ANY (%s)"
_SCAN = "SELECT set_config('hnsw.max_scan_tuples', %s, false)"

DETOUR = 8
"""How many times more nodes than it would take under a filter that has nothing to do with the query are looked at: one
that has leaves only what a graph does not find well, far from the query."""

LEAST, MOST = 1_000, 50_000
"""Nodes that a scan may look at."""


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
    and the exact one, too, when the graph gives fewer than k within :func:`reach`: deleted vectors and a filter can
    hide what is there.
    """
    if among is not None:
        k = min(k, len(among))
    if k < 1:
        return []
    left = rows if among is None else min(rows, len(among))
    if left > exact_below:
        found = _by_graph(connection, table, query, k, among, rows)
        if len(found) == k:
            return found
    return _one_by_one(connection, table, query, k, among)


def reach(wanted: int, left: int, rows: int) -> int:
    """How many nodes the graph's scan may look at for ``wanted`` results where ``left`` of ``rows`` are allowed."""
    return min(MOST, max(LEAST, DETOUR * wanted * rows // max(1, left)))


def _by_graph(
    connection: Connection, table: sql.Identifier, query: Vectors, k: int, among: Ids | None, rows: int
) -> list[Hit]:
    # Under a filter the scan comes back in parts, each sorted in itself: a nearer one may be in the next.
    wanted = k if among is None else 2 * k
    where = sql.SQL(_GRAPH_WHERE if among is not None else "")
    statement = sql.SQL(_GRAPH).format(table=table, where=where)
    vector = wire.NumberArray(query)
    allowed = [] if among is None else [wire.IdArray(among)]
    limit = MOST if among is None else reach(wanted, len(among), rows)
    connection.execute(_SCAN, [str(limit)])
    return best(connection.execute(statement, [vector, *allowed, vector, wanted]).fetchall(), k)


def _one_by_one(connection: Connection, table: sql.Identifier, query: Vectors, k: int, among: Ids | None) -> list[Hit]:
    where = sql.SQL(_EXACT_WHERE if among is not None else "")
    statement = sql.SQL(_EXACT).format(table=table, where=where)
    allowed = [] if among is None else [wire.IdArray(among)]
    rows = connection.execute(statement, [wire.NumberArray(query), *allowed, k]).fetchall()
    return best(rows, k)
