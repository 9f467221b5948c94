"""The vector store `pgvector` under filters, in a real PostgreSQL: all results that exist, and the right ones.

100,000 vectors of 384 numbers (``vectors.py``). Filters are lists of ids, as the base hands them to a store: a random
one for each query, and the ids whose vectors are farthest from the query, where a graph finds nothing on its way.
Beside it is the query that a user of pgvector writes, with the extension's own settings, on the same table and graph.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import numpy as np
from attrs import field, frozen
from training.measure import ROOT, BenchError, Row

from inhouse_pgvector import Options
from inhouse_pgvector.store import PgvectorStore

from .rows import at_least, percentile, told
from .vectors import DIMENSION, Ids, Vectors, mixture, nearest_among, recall

sys.path.insert(0, str(ROOT / "tests"))

from support import postgres

K = 10
RECALL = 0.98
SLOW = 20
"""Queries of a filter under which the graph has to be left and everything compared."""

EACH = 100
"""Of the plain query's filter: it passes the ids that leave a certain rest when divided by this."""

Pick = Callable[[Vectors, np.random.Generator], Ids]
"""The ids that a query's filter passes, ascending."""


@frozen
class Filtered:
    """Searches under one filter: ids that were found and that are true, by query, and the seconds of each."""

    name: str
    found: list[list[int]] = field(factory=list)
    truth: list[list[int]] = field(factory=list)
    seconds: list[float] = field(factory=list)

    @property
    def missing(self) -> int:
        """Results that exist and did not come."""
        return sum(len(true) - len(set(found)) for found, true in zip(self.found, self.truth, strict=True))

    @property
    def recall(self) -> float:
        """The share of the true ids that were found."""
        return recall(self.found, self.truth)

    @property
    def each(self) -> float:
        """Results of a search in the mean."""
        return sum(map(len, self.found)) / len(self.found)

    def line(self) -> str:
        """For the reader."""
        ms = [1e3 * each for each in self.seconds]
        return (
            f"  {self.name + ':':34} {len(self.found)} searches, {self.each:.2f} results each, {self.missing} missing,"
            f" recall {self.recall:.4f}; {median(ms):.1f} ms, p95 {percentile(ms, 95):.1f}"
        )


def measure(quick: bool) -> list[Row]:
    """Fills the store (two minutes on two cores), searches and compares."""
    count, queries = (22_000, 20) if quick else (100_000, 300)
    # not under FOLDER: as root the server runs as another user, who has to get there
    with postgres.running(Path(mkdtemp(prefix="inhouse-bench-pgvector-"))) as server:
        return rows(count, *searched(server, count, queries))


def searched(server: Any, count: int, queries: int) -> tuple[dict[str, Filtered], tuple[Filtered, Filtered]]:
    """Every filter by name, and ours beside the plain query. Raises ``BenchError`` for ids that are not allowed."""
    vectors, asked = mixture(count, seed=1), mixture(queries, seed=2)
    store = PgvectorStore(Options(url=server.get_uri()))
    try:
        started = time.perf_counter()
        store.open(Path(), dimension=DIMENSION, generation=1)
        store.rebuild(range(1, count + 1), vectors, generation=1)
        print(f"  {_versions(server)}; {count} vectors filled in {time.perf_counter() - started:.0f} s", flush=True)
        found = {
            name: _searched(store, name, pick, vectors, asked[: SLOW if name.startswith("the farthest") else None])
            for name, pick in filters(vectors).items()
        }
        return found, _plain(server, store, vectors, asked)
    finally:
        store.close()


def filters(vectors: Vectors) -> dict[str, Pick]:
    """By name. Farthest ones are those least similar to the query."""
    count = len(vectors)

    def drawn(share: float) -> Pick:
        size = round(count * share)
        return lambda _, random: np.sort(random.choice(count, size, replace=False)) + 1

    def farthest(share: float) -> Pick:
        size = round(count * share)
        return lambda query, _: np.sort(np.argpartition(vectors @ query, size)[:size]) + 1

    return {
        "1 %": drawn(0.01),
        "25 %": drawn(0.25),
        "the farthest 1 %": farthest(0.01),
        "the farthest 25 %": farthest(0.25),
        f"{K} ids": drawn(K / count),
        "3 ids": drawn(3 / count),
    }


def _searched(store: Any, name: str, pick: Pick, vectors: Vectors, queries: Vectors) -> Filtered:
    result, random = Filtered(name), np.random.default_rng(3)
    for query in queries:
        allowed = pick(query, random)
        started = time.perf_counter()
        hits = store.search(query, K, among=allowed)
        result.seconds.append(time.perf_counter() - started)
        ids = [key for key, _ in hits]
        if not set(ids) <= set(allowed.tolist()):
            raise BenchError(f"under the filter {name} an id was found that it does not pass")
        result.found.append(ids)
        result.truth.append(nearest_among(vectors, query, K, allowed))
    print(result.line(), flush=True)
    return result


def _plain(server: Any, store: Any, vectors: Vectors, queries: Vectors) -> tuple[Filtered, Filtered]:
    """Ours and the plain query, in turns, under a filter that SQL can say in a word."""
    import psycopg
    from psycopg import sql

    ours, plain = Filtered(f"mod(id, {EACH}) = rest"), Filtered("the same, a plain query")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        name = "SELECT tablename FROM pg_tables WHERE schemaname = 'inhouse' AND tablename ~ '^vectors_[0-9]+$'"
        (table,) = connection.execute(name).fetchall()
        statement = sql.SQL("SELECT id FROM {} WHERE mod(id, {}) = %s ORDER BY vector <#> %s::vector LIMIT {}").format(
            sql.Identifier("inhouse", table[0]), sql.Literal(EACH), sql.Literal(K)
        )
        for number, query in enumerate(queries):
            rest = number % EACH
            allowed = np.arange(rest or EACH, len(vectors) + 1, EACH)
            truth = nearest_among(vectors, query, K, allowed)
            text = str(query.tolist())
            started = time.perf_counter()
            hits = store.search(query, K, among=allowed)
            between = time.perf_counter()
            found = connection.execute(statement, [rest, text]).fetchall()
            ended = time.perf_counter()
            for result, rows, seconds in ((ours, hits, between - started), (plain, found, ended - between)):
                result.found.append([row[0] for row in rows])
                result.truth.append(truth)
                result.seconds.append(seconds)
    print(ours.line(), plain.line(), sep="\n", flush=True)
    return ours, plain


def _versions(server: Any) -> str:
    import psycopg

    with psycopg.connect(server.get_uri()) as connection:
        query = "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        row = connection.execute(query).fetchone()
        assert row
    return f"PostgreSQL {row[0]}, pgvector {row[1]}"


def rows(count: int, found: Mapping[str, Filtered], pair: tuple[Filtered, Filtered]) -> list[Row]:
    """Of all filters, and of ours beside the plain query."""
    work, (ours, plain) = f"pgvector, {count // 1000}k x {DIMENSION}", pair
    every = [*found.values(), ours]
    missing, searches = sum(each.missing for each in every), sum(len(each.found) for each in every)
    one, worst = found["1 %"], min(every, key=lambda each: each.recall)
    return [
        Row(f"{work}: results missing in {searches} searches", "", float(missing), 0.0, 0.0, "", "0", missing == 0),
        at_least(f"{work}, filter 1 %: recall@{K}", "", one.recall, 0.0, RECALL),
        at_least(f"{work}, the worst filter: recall@{K}", worst.name, worst.recall, 0.0, RECALL),
        told(f"{work}, 1 % by rest: results of {K}", "a plain query", ours.each, plain.each),
        told(f"{work}, 1 % by rest: recall@{K}", "a plain query", ours.recall, plain.recall),
        told(f"{work}, filter 1 %: a search", "", 1e3 * median(one.seconds), 0.0, unit="ms"),
    ]
