"""Killed processes, servers that go and come back, and many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector_helpers import (
    DIMENSION,
    NOWHERE,
    child,
    cloud,
    crash_server,
    eventually,
    opened,
    start_server,
    stop_server,
)

from inhouse.errors import ResourceError
from inhouse_pgvector import Options, build, catalogue
from inhouse_pgvector.store import PgvectorStore
from inhouse_vectors.vectors import unit

SAYS = {
    "before the copy": "build.copy_in = here",
    "within the copy": "build.BATCH_BYTES = 4_000; first = build.copy_in;"
    " build.copy_in = lambda *each: first(*each) if each[2][0] < 100 else here()",
    "after the copy": "catalogue.make_graph = here",
    "before it gets its name": "catalogue.name = here",
}


def killed_while(process: Any, holds: Callable[[], Any] | None = None) -> None:
    """Kills (SIGKILL) once it says that it is there."""
    assert process.stdout.readline() == "here\n"
    if holds:
        eventually(holds)
    process.kill()
    process.communicate()


def left(raw: Any, schema: str) -> tuple[int, int]:
    """Rows in the table of collections, and tables of vectors."""
    (rows,) = raw.execute(f"SELECT count(*) FROM {schema}.collections").fetchone()
    query = "SELECT count(*) FROM pg_tables WHERE schemaname = %s AND tablename LIKE 'vectors_%%'"
    return rows, raw.execute(query, [schema]).fetchone()[0]


def swept(store: PgvectorStore) -> int:
    """Drops what nobody has open."""
    server = store._reached()
    return server.patiently(lambda connection: catalogue.sweep(connection, server.names, grace=0))


@pytest.mark.parametrize("point", SAYS)
def test_a_kill_in_rebuild_leaves_the_old_one(make: Any, raw: Any, schema: str, point: str) -> None:
    made = opened(make())
    made.rebuild(range(1, 11), cloud(10), generation=1)
    process = child(
        f"""
        import time
        from inhouse_pgvector import build, catalogue
        def here(*each, **more):
            print("here", flush=True)
            time.sleep(600)
        {SAYS[point]}
        opened(store, generation=2).rebuild(range(1, 201), cloud(200, seed=1), generation=2)
        """,
        made,
    )
    killed_while(process)
    assert made.count() == 10
    assert made.search(cloud(10)[3], 1) == [(4, 1.0)]
    assert not make().open(NOWHERE, dimension=DIMENSION, generation=2)
    assert make().open(NOWHERE, dimension=DIMENSION, generation=1)
    eventually(lambda: swept(made))
    assert left(raw, schema) == (1, 1)
    opened(make(), generation=2).rebuild(range(1, 201), cloud(200, seed=1), generation=2)
    assert make().open(NOWHERE, dimension=DIMENSION, generation=2)


def test_a_kill_while_the_graph_is_built(make: Any, raw: Any, schema: str) -> None:
    made = opened(make())
    process = child(
        """
        print("here", flush=True)
        opened(store, dimension=256).rebuild(range(1, 12_001), clusters(12_000, 256), generation=1)
        """,
        made,
    )
    building = "SELECT 1 FROM pg_stat_progress_create_index WHERE relid::regclass::text LIKE %s AND tuples_done > 100"
    killed_while(process, lambda: raw.execute(building, [f"{schema}.%"]).fetchone())
    assert not make().open(NOWHERE, dimension=256, generation=1)
    eventually(lambda: swept(made))  # the server notices that its client is dead
    assert left(raw, schema) == (0, 0)


def test_a_kill_in_add_leaves_all_or_nothing(make: Any, raw: Any, schema: str) -> None:
    made = opened(make())
    made.rebuild(range(1, 101), cloud(100), generation=1)
    raw.execute("BEGIN")
    raw.execute(f"DELETE FROM {schema}.vectors_1 WHERE id = 50")  # add will wait at this one, half done
    process = child(
        """
        assert store.open(NOWHERE, dimension=DIMENSION, generation=1)
        print("here", flush=True)
        store.add(range(40, 60), np.ones((20, DIMENSION)))
        """,
        made,
    )
    with psycopg.connect(made.options.url, autocommit=True) as beside:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        killed_while(process, lambda: beside.execute(waiting, [f'INSERT INTO "{schema}"%']).fetchone())
        raw.execute("ROLLBACK")
        eventually(lambda: not beside.execute(waiting, [f'INSERT INTO "{schema}"%']).fetchone())
    assert made.count() == 100
    assert made.search(cloud(100)[44], 1) == [(45, 1.0)]
    assert make().open(NOWHERE, dimension=DIMENSION, generation=1), "nothing was changed"


def test_what_a_killed_writer_did_not_flush_does_not_open(make: Any, raw: Any, schema: str) -> None:
    made = make()
    opened(make()).rebuild([1], cloud(1), generation=1)
    process = child(
        """
        assert store.open(NOWHERE, dimension=DIMENSION, generation=1)
        store.add([2], cloud(1))
        print("here", flush=True)
        input()
        """,
        made,
    )
    killed_while(process)
    assert opened(made).count() == 0


def test_many_threads_search_add_and_delete(make: Any) -> None:
    vectors = cloud(2_000)
    made = opened(make(exact_below=0, connections=3))
    made.rebuild(range(1, 501), vectors[:500], generation=1)
    stop, problems = threading.Event(), []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                problems.append(error)

        return run

    def search() -> None:
        for query in cloud(100_000, seed=threading.get_ident() % 1000):
            if stop.is_set():
                return
            hits = made.search(query, 5)
            assert len(hits) == 5
            assert len({key for key, _ in hits}) == 5

    def add(first: int) -> None:
        for start in range(first, first + 500, 25):
            made.add(range(start + 1, start + 26), vectors[start : start + 25])

    def delete() -> None:
        for start in range(1, 401, 10):
            made.delete(range(start, start + 10))

    writers = [guarded(lambda: add(500)), guarded(lambda: add(1_000)), guarded(delete)]
    readers = [threading.Thread(target=guarded(search)) for _ in range(4)]
    working = [threading.Thread(target=each) for each in writers]
    for each in [*readers, *working]:
        each.start()
    for each in working:
        each.join()
    stop.set()
    for each in readers:
        each.join()
    assert not problems
    wanted = set(range(401, 1_501))
    assert made.count() == len(wanted)
    assert {key for key, _ in made.search(vectors[0], 2_000)} == wanted
    assert all(made.search(vectors[key - 1], 1) == [(key, 1.0)] for key in range(401, 1_501, 100))


def test_two_processes_add_at_once(make: Any) -> None:
    made = opened(make())
    made.rebuild([1], cloud(1), generation=1)
    code = """
        assert store.open(NOWHERE, dimension=DIMENSION, generation={generation})
        print("here", flush=True)
        input()
        vectors = cloud(300, seed=7)
        for start in range({first}, {first} + 200, 20):
            store.add(range(start + 1, start + 21), vectors[start : start + 20])
        """
    processes = [child(code.format(first=first, generation=1), made) for first in (0, 100)]
    assert [each.stdout.readline() for each in processes] == ["here\n", "here\n"]  # both have it open
    for each in processes:
        each.stdin.write("\n")
        each.stdin.flush()
    for each in processes:
        each.communicate()
    assert [each.returncode for each in processes] == [0, 0]
    assert made.count() == 300
    made.flush(generation=2)
    vectors = cloud(300, seed=7)
    assert all(made.search(vectors[key - 1], 1) == [(key, 1.0)] for key in (1, 100, 101, 200, 300))
    assert make().open(NOWHERE, dimension=DIMENSION, generation=2)


def test_two_processes_rebuild_one_generation_at_once(make: Any, raw: Any, schema: str) -> None:
    made = opened(make(), dimension=64)
    code = """
        opened(store, dimension=64)
        print("here", flush=True)
        store.rebuild(range(1, 4_001), clusters(4_000, 64), generation=1)
        print(store.count(), store._current.collection, flush=True)
        """
    processes = [child(code, made) for _ in range(2)]
    said = [each.communicate()[0].splitlines()[1] for each in processes]
    assert [each.returncode for each in processes] == [0, 0]
    assert {each.split()[0] for each in said} == {"4000"}
    assert made.open(NOWHERE, dimension=64, generation=1)
    assert made.count() == 4_000
    eventually(lambda: swept(made) == 0 and left(raw, schema) == (1, 1))


def test_who_waits_for_another_rebuild_shares_its_collection(make: Any, raw: Any, schema: str) -> None:
    made = opened(make())
    made.flush(generation=7)  # makes the tables
    server, shape = made._opened(), catalogue.Shape.of(made.options, DIMENSION)
    beside = server.connect()
    beside.execute("SELECT pg_advisory_lock(%s)", [server.names.building(1)])
    thread = threading.Thread(target=lambda: made.rebuild(range(1, 6), cloud(5), generation=1))
    thread.start()
    eventually(lambda: raw.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone())
    collection = catalogue.begin(beside, server.names, shape)
    catalogue.make_graph(beside, server.names, collection, shape)
    build.copy_in(beside, server.names.vectors(collection), np.arange(1, 6), unit(cloud(5), DIMENSION))
    catalogue.name(beside, server.names, collection, shape, 1)
    beside.close()
    thread.join()
    assert made._current.collection == collection
    assert made.search(cloud(5)[2], 1) == [(3, 1.0)]


def test_a_replaced_collection_goes_when_its_last_reader_does(make: Any, raw: Any, schema: str) -> None:
    reader = opened(make())
    reader.rebuild(range(1, 6), cloud(5), generation=1)
    writer = opened(make(), generation=2)
    writer.rebuild([9], cloud(1), generation=1)
    assert swept(writer) == 0
    assert (reader.count(), writer.count()) == (5, 1)
    assert left(raw, schema) == (2, 2)
    reader.close()
    eventually(lambda: swept(writer) == 1)
    assert left(raw, schema) == (1, 1)
    assert writer.count() == 1


@pytest.fixture
def elsewhere(other: Any, schema: str) -> Any:
    """A store over the second server, which runs again afterwards."""
    made = PgvectorStore(Options(url=other.get_uri(), schema=schema, exact_below=0))
    yield opened(made)
    start_server(other)
    made.close()


@pytest.mark.parametrize("away", [stop_server, crash_server])
def test_calls_wait_for_a_server_that_comes_back(other: Any, elsewhere: Any, away: Callable[[Any], None]) -> None:
    vectors = cloud(2_000)
    elsewhere.rebuild(range(1, 201), vectors[:200], generation=1)
    stopped, problems, searched = threading.Event(), [], []

    def search() -> None:
        try:
            while not stopped.is_set():
                assert elsewhere.search(vectors[7], 1) == [(8, 1.0)]
                searched.append(1)
        except BaseException as error:
            problems.append(error)

    def add() -> None:
        try:
            for start in range(200, 2_000, 20):
                elsewhere.add(range(start + 1, start + 21), vectors[start : start + 20])
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=search), threading.Thread(target=add)]
    for each in threads:
        each.start()
    for more in (10, 20):
        eventually(lambda more=more: len(searched) >= more or problems)
        away(other)
        start_server(other)
    before = len(searched)
    threads[1].join()
    eventually(lambda: len(searched) > before or problems)
    stopped.set()
    threads[0].join()
    assert not problems
    assert elsewhere.count() == 2_000
    assert {key for key, _ in elsewhere.search(vectors[0], 2_000)} == set(range(1, 2_001))
    elsewhere.flush(generation=2)
    assert elsewhere.open(NOWHERE, dimension=DIMENSION, generation=2)


def test_a_rebuild_goes_on_after_the_server_was_away(
    other: Any, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BATCH_BYTES", 16_000)
    real, calls = build.copy_in, []

    def copy_in(*each: Any) -> None:
        calls.append(int(each[2][0]))
        if len(calls) == 5:
            crash_server(other)
            start_server(other)
        real(*each)

    monkeypatch.setattr(build, "copy_in", copy_in)
    vectors = cloud(1_500)
    elsewhere.rebuild(range(1, 1_501), vectors, generation=5)
    assert calls[4] == calls[5], "the batch that failed, and not those before it"
    assert len(set(calls)) == len(calls) - 1
    assert elsewhere.count() == 1_500
    assert {key for key, _ in elsewhere.search(vectors[0], 1_500)} == set(range(1, 1_501))


def test_a_server_that_stays_away_is_one_clear_error(other: Any, schema: str) -> None:
    store = opened(PgvectorStore(Options(url=other.get_uri(), schema=schema, patience=0.5)))
    store.rebuild([1], cloud(1), generation=1)
    stop_server(other)
    try:
        calls: list[Callable[[], Any]] = [
            lambda: store.search(cloud(1)[0], 1),
            lambda: store.add([2], cloud(1)),
            lambda: store.rebuild([2], cloud(1), generation=2),
            lambda: PgvectorStore(store.options).open(NOWHERE, dimension=DIMENSION, generation=1),
        ]
        for call in calls:
            with pytest.raises(ResourceError, match="cannot be reached") as caught:
                call()
            assert caught.value.exit_code == 2
            assert "schema" in str(caught.value.where)
        assert "cannot be reached" in str(PgvectorStore(store.options).probe())
    finally:
        start_server(other)
    assert store.search(cloud(1)[0], 1) == [(1, 1.0)]
    assert store.count() == 1
    store.close()


def test_a_collection_that_somebody_dropped(make: Any, raw: Any, schema: str) -> None:
    made = opened(make())
    made.rebuild([1], cloud(1), generation=1)
    raw.execute(f"DROP TABLE {schema}.vectors_1")
    with pytest.raises(ResourceError, match="was dropped"):
        made.search(cloud(1)[0], 1)
    with pytest.raises(ResourceError, match="was dropped"):
        made.add([2], cloud(1))
    assert not make().open(NOWHERE, dimension=DIMENSION, generation=1)
    made.rebuild([1], np.ones((1, DIMENSION)), generation=1)
    assert made.count() == 1
