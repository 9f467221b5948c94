"""A knowledge base whose server goes and comes back: the run and the searches go on, nothing lost, nothing twice."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pgvector_helpers import crash_server, eventually, start_server, stop_server

import inhouse_knowledge
from inhouse.errors import ResourceError
from inhouse_pgvector import Options, build
from inhouse_pgvector.store import PgvectorStore

sys.path.append(str(Path(inhouse_knowledge.__file__).parents[2] / "tests"))
from knowledge_standins import HashingEmbedder, index, many, opened

Make = Callable[..., PgvectorStore]


@pytest.fixture
def store(other: Any, schema: str) -> Iterator[Make]:
    """Makes stores over the second server, which runs again afterwards."""
    made: list[PgvectorStore] = []

    def new(**options: Any) -> PgvectorStore:
        made.append(PgvectorStore(Options(**{"url": other.get_uri(), "schema": schema, "exact_below": 0, **options})))
        return made[-1]

    yield new
    start_server(other)
    for each in made:
        each.close()


def once_each(store: PgvectorStore, folder: Path, schema: str) -> None:
    """Every passage is found, once, in the only collection there is."""
    base = opened(folder, store, lexical_weight=0)
    found = [hit.document for hit in base.search("about", 1000)]
    assert len(found) == base.count() == store.count()
    assert set(found) == {row["id"] for row in many(150)}
    for at in (0, 7, 149):
        assert base.search(f"About item{at} and thing{at % 7}.", 1)[0].document == f"doc-{at}"
    with psycopg.connect(store.options.url) as connection:
        assert connection.execute(f"SELECT count(*) FROM {schema}.collections").fetchone() == (1,)
    base.close()


def test_a_run_goes_on_after_the_server_was_away(
    other: Any, store: Make, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BATCH_BYTES", 10_000)
    copy_in, calls = build.copy_in, []

    def interrupted(*each: Any) -> None:
        calls.append(each)
        copy_in(*each)
        if len(calls) in (2, 4):  # after the rows are sent, before they are committed
            (stop_server if len(calls) == 2 else crash_server)(other)
            start_server(other)

    monkeypatch.setattr(build, "copy_in", interrupted)
    embedder = HashingEmbedder()
    step = index(tmp_path, many(150), store=store(), embedder=embedder)
    assert len(calls) > 5
    assert len(embedder.calls) == 3
    once_each(store(), step.output, schema)


def test_a_run_that_gave_up_is_gone_on_with(other: Any, store: Make, schema: str, tmp_path: Path) -> None:
    stop_server(other)
    with pytest.raises(ResourceError, match="cannot be reached"):
        index(tmp_path / "1", many(150), store=store(patience=0.5))
    start_server(other)
    embedder, checkpoints = HashingEmbedder(), tmp_path / "1" / "checkpoints"
    step = index(tmp_path / "2", many(150), store=store(), embedder=embedder, checkpoints=checkpoints)
    assert embedder.calls == [], "what was embedded is kept"
    once_each(store(), step.output, schema)


@pytest.mark.parametrize("away", [stop_server, crash_server])
def test_searches_go_on_after_the_server_was_away(
    other: Any, store: Make, schema: str, tmp_path: Path, away: Callable[[Any], None]
) -> None:
    folder = index(tmp_path, many(150), store=store()).output
    base = opened(folder, store())
    queries = [f"About item{at} and thing{at % 7}." for at in range(150)]
    alone = [base.search(query, 5) for query in queries]
    stopped, problems, answers = threading.Event(), list[BaseException](), list[bool]()

    def search(first: int) -> None:
        try:
            at = first
            while not stopped.is_set():
                answers.append(base.search(queries[at % 150], 5) == alone[at % 150])
                at += 1
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=search, args=[first]) for first in (0, 75)]
    for each in threads:
        each.start()
    for _ in range(2):
        before = len(answers)
        eventually(lambda before=before: len(answers) > before + 10 or problems)
        away(other)
        start_server(other)
    before = len(answers)
    eventually(lambda: len(answers) > before + 10 or problems)
    stopped.set()
    for each in threads:
        each.join()
    assert not problems
    assert all(answers)
    base.close()
    once_each(store(), folder, schema)
