"""The rules of a vector store (docs/knowledge.md), in a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgvector_helpers import DIMENSION, NOWHERE, cloud, clusters, nearest, opened, recall
from psycopg import sql

from inhouse.errors import DataError
from inhouse_pgvector import Options, inhouse_vector_stores, search
from inhouse_pgvector.search import depth
from inhouse_pgvector.store import PgvectorStore
from inhouse_testing import conformance, stores
from inhouse_vectors.vectors import unit

MODES = pytest.mark.parametrize("exact_below", [0, 2_000], ids=["graph", "exact"])


def test_declares_one_store_without_loading_a_driver() -> None:
    (spec,) = inhouse_vector_stores()
    assert (spec.name, spec.kind) == ("pgvector", "vector_store")
    assert "network" not in spec.features
    conformance.check_spec(spec)
    conformance.check_light("inhouse_pgvector")


@pytest.mark.parametrize("check", [*stores.CHECKS, stores.check_exact_ties])
def test_holds_the_rules_of_every_store(make: Any, tmp_path: Path, check: Any) -> None:
    check(make, tmp_path)


@pytest.mark.parametrize("check", [stores.check_changes, stores.check_threads])
def test_the_graph_holds_them_too(make: Any, tmp_path: Path, check: Any) -> None:
    check(lambda: make(exact_below=0), tmp_path)


def test_where_the_vectors_lie_does_not_count_in_a_fingerprint() -> None:
    from inhouse.options import counting

    one = Options(url="host=one", schema="a", connections=1, patience=1)
    assert counting(one) == counting(Options(url="host=two", schema="b"))
    assert counting(one) != counting(Options(m=8))


@MODES
def test_finds_what_exact_search_finds(make: Any, exact_below: int) -> None:
    vectors = cloud(800)
    made = opened(make(exact_below=exact_below))
    made.rebuild(range(1, 801), vectors, generation=1)
    assert recall(made, vectors, cloud(30, seed=1)) > 0.98
    (best, score), *_ = made.search(vectors[41] * 7, 3)
    assert (best, score) == (42, 1.0)


def test_scores_are_cosines_of_six_digits(make: Any) -> None:
    vectors = cloud(50)
    made = opened(make())
    made.rebuild(range(1, 51), vectors, generation=1)
    query = cloud(1, seed=3)[0]
    for key, score in made.search(query, 50):
        row = vectors[key - 1].astype(float)
        assert score == round(score, 6)
        assert score == pytest.approx(row @ query / np.linalg.norm(row) / np.linalg.norm(query), abs=2e-6)


def test_opens_only_what_it_was_asked_for(make: Any) -> None:
    opened(make()).rebuild([1, 2], cloud(2), generation=3)
    again = make()
    assert again.open(NOWHERE, dimension=DIMENSION, generation=3)
    assert (again.count(), [key for key, _ in again.search(cloud(2)[1], 1)]) == (2, [2])
    assert not make().open(NOWHERE, dimension=DIMENSION + 1, generation=3)
    assert not make().open(NOWHERE, dimension=DIMENSION, generation=4)
    assert not make(m=8).open(NOWHERE, dimension=DIMENSION, generation=3)
    assert not make(ef_construction=64).open(NOWHERE, dimension=DIMENSION, generation=3)
    assert not make(schema="another").open(NOWHERE, dimension=DIMENSION, generation=3)
    assert make(ef_search=10).open(NOWHERE, dimension=DIMENSION, generation=3)


def test_only_the_last_generation_opens(make: Any) -> None:
    made = opened(make())
    made.rebuild([1], cloud(1), generation=1)
    made.add([2], cloud(1, seed=1))
    assert not make().open(NOWHERE, dimension=DIMENSION, generation=1), "changed since"
    made.flush(generation=2)
    assert not make().open(NOWHERE, dimension=DIMENSION, generation=1)
    assert make().open(NOWHERE, dimension=DIMENSION, generation=2)
    made.rebuild([1, 2, 3], cloud(3), generation=3)
    assert not make().open(NOWHERE, dimension=DIMENSION, generation=2)
    last = make()
    assert last.open(NOWHERE, dimension=DIMENSION, generation=3)
    assert last.count() == made.count() == 3


def test_two_bases_of_one_generation_share_a_collection(make: Any, raw: Any, schema: str) -> None:
    one = opened(make())
    one.rebuild(range(1, 11), cloud(10), generation=1)
    two = make()
    assert two.open(Path("elsewhere"), dimension=DIMENSION, generation=1)
    two.add([11], cloud(1, seed=2))
    assert one.count() == two.count() == 11
    assert raw.execute(f"SELECT count(*) FROM {schema}.collections").fetchone() == (1,)


def test_a_filter_that_leaves_only_what_is_far_is_compared_exactly(make: Any) -> None:
    vectors = cloud(4_000)
    made = opened(make(exact_below=0, ef_search=40))
    made.rebuild(range(1, 4_001), vectors, generation=1)
    rows = unit(vectors, DIMENSION)
    for query in cloud(10, seed=1):
        far = np.sort(np.argsort(rows @ query)[:2_000]) + 1
        assert [key for key, _ in made.search(query, 10, among=far)] == nearest(vectors, query, 10, far)
    assert recall(made, vectors, cloud(20, seed=1), among=np.arange(2, 4_001, 2)) > 0.95


@pytest.mark.parametrize(
    ("k", "left", "rows", "nodes"),
    [(10, 50_000, 100_000, 80), (10, 30_001, 100_000, 134), (3, 7, 7, 12), (3, 9, 7, 12)],
)
def test_a_tight_filter_is_looked_for_deeper(k: int, left: int, rows: int, nodes: int) -> None:
    assert depth(k, left, rows) == nodes


@MODES
def test_deletes_filters_and_more_than_there_is(make: Any, exact_below: int) -> None:
    vectors = cloud(400)
    made = opened(make(exact_below=exact_below))
    made.rebuild(range(1, 401), vectors, generation=1)
    made.delete(range(1, 391))
    made.delete([1, 7777, -5, 2**60])
    assert made.count() == 10
    assert sorted(key for key, _ in made.search(vectors[0], 50)) == list(range(391, 401))
    assert {key for key, _ in made.search(vectors[0], 5, among=[3, 398, 399, 400, 9999])} == {398, 399, 400}
    assert made.search(vectors[0], 5, among=np.arange(398, 500))[0][0] >= 398
    assert made.search(vectors[0], 5, among=[]) == []
    assert made.search(vectors[0], 5, among=[1, 2, 2**50]) == []
    assert made.search(vectors[0], 0) == made.search(vectors[0], -1) == []
    made.delete(range(391, 401))
    assert (made.count(), made.search(vectors[0], 3)) == (0, [])
    made.add(range(1, 401), vectors)
    assert [key for key, _ in made.search(vectors[9], 1)] == [10]
    made.flush(generation=2)
    again = make(exact_below=exact_below)
    assert again.open(NOWHERE, dimension=DIMENSION, generation=2)
    assert again.count() == 400


@MODES
def test_an_id_that_is_there_is_replaced(make: Any, exact_below: int) -> None:
    vectors = cloud(60)
    made = opened(make(exact_below=exact_below))
    made.rebuild(range(1, 31), vectors[:30], generation=1)
    made.add(range(21, 51), vectors[30:])
    assert made.count() == 50
    assert made.search(vectors[30], 1) == [(21, 1.0)]
    assert made.search(vectors[20], 1)[0] != (21, 1.0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(["add", "delete", "reopen"]), st.sets(st.integers(1, 40))), max_size=8),
    exactly=st.booleans(),
)
def test_behaves_as_a_dictionary_of_vectors(make: Any, steps: list[tuple[str, set[int]]], exactly: bool) -> None:
    below = 2_000 if exactly else 0
    made = opened(make(exact_below=below), generation=10_000)
    truth: dict[int, Any] = {}
    for number, (action, ids) in enumerate(steps):
        if action == "add":
            vectors = cloud(len(ids), seed=number)
            made.add(sorted(ids), vectors)
            truth.update(zip(sorted(ids), vectors, strict=True))
        elif action == "delete":
            made.delete(sorted(ids))
            truth = {key: value for key, value in truth.items() if key not in ids}
        else:
            made.flush(generation=number)
            made.close()
            assert made.open(NOWHERE, dimension=DIMENSION, generation=number)
        assert made.count() == len(truth)
        assert sorted(key for key, _ in made.search(np.ones(DIMENSION), 100)) == sorted(truth)
        for key, vector in truth.items():
            best, score = made.search(vector, 1)[0]
            assert (best, score) == (key, pytest.approx(1, abs=1e-5))
    made.close()


@MODES
def test_equal_zero_and_broken_vectors(make: Any, exact_below: int) -> None:
    made = opened(make(exact_below=exact_below))
    made.rebuild(range(1, 1001), np.ones((1000, DIMENSION)), generation=1)
    found = made.search(np.ones(DIMENSION), 3)
    assert [score for _, score in found] == [1.0, 1.0, 1.0]
    if exact_below:
        assert [key for key, _ in found] == [1, 2, 3]
    made.add([2000], np.zeros((1, DIMENSION)))
    assert made.search(np.zeros(DIMENSION), 1, among=[2000]) == [(2000, 0.0)]
    assert dict(made.search(-np.ones(DIMENSION), 1001))[2000] == 0.0
    assert [score for _, score in made.search(np.zeros(DIMENSION), 2)] == [0.0, 0.0]
    if exact_below:
        assert made.search(-np.ones(DIMENSION), 1) == [(2000, 0.0)]
    made.add([2001], np.full((1, DIMENSION), -3e38))
    if exact_below:  # a graph of a thousand equal vectors hardly has a way out
        assert made.search(-np.ones(DIMENSION), 1) == [(2001, 1.0)]
    for bad in (np.nan, np.inf, -np.inf):
        rows = np.ones((3, DIMENSION))
        rows[2, 5] = bad
        with pytest.raises(DataError, match="vector 2 of 3 holds NaN or infinity"):
            made.add([3000, 3001, 3002], rows)
        with pytest.raises(DataError, match="NaN or infinity"):
            made.rebuild([3000, 3001, 3002], rows, generation=2)
        with pytest.raises(DataError, match="NaN or infinity"):
            made.search(rows[2], 1)
    assert made.count() == 1002


def test_only_zero_vectors_are_found_too(make: Any) -> None:
    made = opened(make(exact_below=0))
    made.rebuild([5, 3, 4], np.zeros((3, DIMENSION)), generation=1)
    assert made.search(np.ones(DIMENSION), 2) == [(3, 0.0), (4, 0.0)] or len(made.search(np.ones(DIMENSION), 2)) == 2
    assert made.search(np.ones(DIMENSION), 9) == [(3, 0.0), (4, 0.0), (5, 0.0)]


def test_says_what_is_wrong_with_a_call(make: Any) -> None:
    with pytest.raises(ValueError, match="not open"):
        make().count()
    made = opened(make())
    for ids, vectors, why in (
        ([1], cloud(2), "1 ids for 2"),
        ([1, 1], cloud(2), "twice"),
        ([0], cloud(1), "between 1"),
        ([2**48], cloud(1), "between 1"),
        ([1], np.ones((1, 3)), "dimension"),
    ):
        with pytest.raises(ValueError, match=why):
            made.add(ids, vectors)
        with pytest.raises(ValueError, match=why):
            made.rebuild(ids, vectors, generation=1)
    with pytest.raises(ValueError, match="one vector"):
        made.search(cloud(2), 1)
    with pytest.raises(ValueError, match="dimension 2001"):
        make().open(NOWHERE, dimension=2001, generation=1)
    made.close()
    with pytest.raises(ValueError, match="not open"):
        made.search(cloud(1), 1)


def test_the_largest_ids_and_dimension(make: Any) -> None:
    made = opened(make(), dimension=2000)
    vectors = cloud(3, dimension=2000)
    made.rebuild([1, 2**48 - 2, 2**48 - 1], vectors, generation=2**56 - 1)
    assert made.search(vectors[2], 1) == [(2**48 - 1, 1.0)]
    assert make().open(NOWHERE, dimension=2000, generation=2**56 - 1)


def test_empty_indexes(make: Any) -> None:
    made = opened(make())
    assert (made.count(), made.search(np.ones(DIMENSION), 5)) == (0, [])
    made.delete([1])
    made.add([], np.zeros((0, DIMENSION)))
    made.flush(generation=1)
    again = make()
    assert again.open(NOWHERE, dimension=DIMENSION, generation=1)
    assert (again.count(), again.search(np.ones(DIMENSION), 5)) == (0, [])
    again.rebuild([], np.zeros((0, DIMENSION)), generation=2)
    assert make().open(NOWHERE, dimension=DIMENSION, generation=2)


@pytest.fixture(scope="module")
def large(server: Any) -> Any:
    """5,000 clustered vectors of 32 numbers, searched by the graph whatever the filter."""
    store = opened(PgvectorStore(Options(url=server.get_uri(), schema="large", exact_below=0)), dimension=32)
    vectors = clusters(5_000, 32)
    store.rebuild(range(1, 5_001), vectors, generation=1)
    yield store, vectors
    store.close()


@pytest.mark.parametrize("share", [None, 0.5, 0.01])
def test_recall_of_the_graph(large: Any, share: float | None) -> None:
    store, vectors = large
    among = None
    if share is not None:
        among = np.sort(np.random.default_rng(5).choice(5_000, int(5_000 * share), replace=False) + 1)
    assert recall(store, vectors, clusters(100, 32, seed=1), among) >= 0.98


def test_recall_where_the_filter_allows_only_what_is_far(large: Any) -> None:
    store, vectors = large
    query = clusters(1, 32, seed=2)[0]
    far = np.sort(np.array(nearest(vectors, -query, 60)))
    assert [key for key, _ in store.search(query, 10, among=far)] == nearest(vectors, query, 10, far)


def test_the_graph_is_used(large: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests of its recall would say nothing."""
    store, vectors = large
    plan: list[Any] = []
    by_graph = search._by_graph

    def explained(connection: Any, table: Any, query: Any, count: int) -> Any:
        explain = sql.SQL("EXPLAIN " + search._GRAPH).format(table=table)
        plan.extend(connection.execute(explain, [list(map(float, query))] * 2 + [count]).fetchall())
        return by_graph(connection, table, query, count)

    monkeypatch.setattr(search, "_by_graph", explained)
    monkeypatch.delattr(search, "_one_by_one")
    for among in (None, np.arange(1, 5_001, 3)):
        plan.clear()
        assert len(store.search(vectors[0], 5, among=among)) == 5
        assert any("vectors_1_hnsw" in line for (line,) in plan), plan
