"""The rules of vector stores, what a killed or refused write leaves, damaged files, and ties beyond sqlite-vec's k."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inhouse_sample_sqlitevec import Options, files, inhouse_vector_stores, search
from inhouse_sample_sqlitevec.store import SqliteVecStore
from inhouse_sample_sqlitevec.table import CHUNK, LARGEST_DIMENSION, LARGEST_K, Table

from inhouse.errors import RecipeError, ResourceError
from inhouse_testing import stores
from inhouse_vectors.exact import ExactStore

Vectors = npt.NDArray[np.float32]
DIMENSION = 16


def cloud(count: int, seed: int = 0, dimension: int = DIMENSION) -> Vectors:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def store(folder: Path, dimension: int = DIMENSION) -> SqliteVecStore:
    made = SqliteVecStore()
    assert made.open(folder, dimension=dimension, generation=1) is False
    return made


def kept(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("check", [*stores.CHECKS, stores.check_exact_ties])
def test_it_is_a_vector_store(check: Callable[[stores.Make, Path], None], tmp_path: Path) -> None:
    check(SqliteVecStore, tmp_path)


def test_it_can_run_here() -> None:
    (spec,) = inhouse_vector_stores()
    assert (spec.name, spec.kind) == ("sqlite-vec", "vector_store")
    assert SqliteVecStore().probe() is None


@pytest.mark.parametrize("dimension", [1, 3, 64, 384])
def test_it_finds_what_exact_finds(tmp_path: Path, dimension: int) -> None:
    """Filters of few and of many, zero vectors, equal ones and k beyond all: in the same order."""
    vectors = cloud(6000, dimension=dimension)
    vectors[100:120] = 0
    vectors[3000:3100] = vectors[50]
    ids = np.random.default_rng(1).permutation(np.arange(1, 6001))
    made, truth = store(tmp_path, dimension), ExactStore()
    truth.open(tmp_path, dimension=dimension, generation=1)
    for each in (made, truth):
        each.rebuild(ids.tolist(), vectors, generation=1)
    queries = [*cloud(8, seed=2, dimension=dimension), vectors[50], np.zeros(dimension, np.float32)]
    for query in queries:
        for k, among in ((5, None), (120, None), (7000, None), (9, range(1, 6001, 50)), (9, range(1, 5500))):
            ours, theirs = (each.search(query, k, among=among) for each in (made, truth))
            assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=2e-6)
            clear = [score for _, score in theirs if abs(score - theirs[-1][1]) > 3e-6]  # not the last and its like
            assert {key for key, _ in ours[: len(clear)]} == {key for key, _ in theirs[: len(clear)]}
            assert ours == sorted(ours, key=lambda hit: (-hit[1], hit[0]))
    assert made.search(vectors[50], 3) == truth.search(vectors[50], 3)


def test_ties_beyond_what_sqlite_vec_can_be_asked_for(tmp_path: Path) -> None:
    count = LARGEST_K + 1000
    made = store(tmp_path)
    made.rebuild(range(1, count + 1), np.ones((count, DIMENSION), np.float32), generation=1)
    made.delete([1])
    made.add([1], np.ones((1, DIMENSION), np.float32))  # the last in the table, and the first by id
    assert made.search(np.ones(DIMENSION), 2) == [(1, 1.0), (2, 1.0)]
    assert made.search(np.zeros(DIMENSION), 2) == [(1, 0.0), (2, 0.0)]
    everything = made.search(np.ones(DIMENSION), count + 10)
    assert [key for key, _ in everything] == list(range(1, count + 1))


def test_what_sqlite_vec_leaves_out_cannot_be_better(tmp_path: Path) -> None:
    """Its own order of nearly equal vectors is another one than the product's; the margin covers that."""
    dimension = 768
    near = np.ones((3000, dimension), np.float32) + 1e-3 * cloud(3000, dimension=dimension)
    made, truth = store(tmp_path, dimension), ExactStore()
    truth.open(tmp_path, dimension=dimension, generation=1)
    for each in (made, truth):
        each.rebuild(range(1, 3001), near, generation=1)
    for query in near[:10]:
        ours, theirs = made.search(query, 10), truth.search(query, 10)
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=2e-6)
    assert search.margin(dimension) < 1e-3


def test_opens_again_to_the_same_answers_and_the_same_bytes(tmp_path: Path) -> None:
    vectors = cloud(700)
    for name in ("one", "two"):
        made = store(tmp_path / name)
        made.rebuild(range(1, 701), vectors, generation=5)
        made.close()
    one, two = ({each.name: each.read_bytes() for each in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    (name,) = one
    again, first = SqliteVecStore(), store(tmp_path / "three")
    assert again.open(tmp_path / "one", dimension=DIMENSION, generation=5)
    first.rebuild(range(1, 701), vectors, generation=5)
    for query in cloud(20, seed=3):
        assert again.search(query, 7) == first.search(query, 7)
    assert kept(tmp_path / "one") == [name], "reading put something beside the file"


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    folder = tmp_path / "a b#c?mode=rw&%20 'é'"
    store(folder).rebuild([1, 2], cloud(2), generation=1)
    again = SqliteVecStore()
    assert again.open(folder, dimension=DIMENSION, generation=1)
    assert again.search(cloud(2)[1], 1) == [(2, 1.0)]


def test_refuses_what_is_not_the_index_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(folder: Path, dimension: int = DIMENSION, generation: int = 3) -> bool:
        return SqliteVecStore().open(folder, dimension=dimension, generation=generation)

    store(tmp_path).rebuild([1, 2], cloud(2), generation=3)
    assert opens(tmp_path)
    assert not opens(tmp_path, dimension=DIMENSION + 1)
    assert not opens(tmp_path, generation=4)
    assert not opens(tmp_path / "missing")
    monkeypatch.setattr("sqlite_vec.__version__", "99")
    assert not opens(tmp_path)


def test_vectors_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="up to 8191 numbers, and the embedder gives 8192"):
        SqliteVecStore().open(tmp_path, dimension=LARGEST_DIMENSION + 1, generation=1)
    made = store(tmp_path, LARGEST_DIMENSION)
    made.rebuild([1, 2], cloud(2, dimension=LARGEST_DIMENSION), generation=1)
    assert made.search(cloud(2, dimension=LARGEST_DIMENSION)[1], 1) == [(2, 1.0)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_and_rebuilt(tmp_path: Path, data: st.DataObject) -> None:
    vectors, folder = cloud(20), tmp_path / "index"
    made = SqliteVecStore()
    made.open(folder, dimension=DIMENSION, generation=1)
    made.rebuild(range(1, 21), vectors, generation=1)
    made.close()
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    damage = data.draw(st.sampled_from(["flip", "cut", "empty", "gone", "longer"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if damage == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes({"cut": content[:at], "empty": bytearray(), "longer": content + b"x"}.get(damage, content))
    if damage == "gone":
        path.unlink()
    again = SqliteVecStore()
    assert not again.open(folder, dimension=DIMENSION, generation=1)
    assert (again.count(), again.search(vectors[0], 3)) == (0, [])
    again.rebuild(range(1, 21), vectors, generation=1)
    assert [key for key, _ in again.search(vectors[4], 1)] == [5]
    assert len(kept(folder)) == 1
    again.close()


def test_a_foreign_file_with_a_name_that_fits_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"no database", b"SQLite format 3\0" + bytes(5000)):
        path = tmp_path / "sqlite-vec-0.db"
        path.write_bytes(content)
        path.rename(tmp_path / files._name(path))
    assert not SqliteVecStore().open(tmp_path, dimension=DIMENSION, generation=1)


def test_changes_stay_private_until_they_are_flushed(tmp_path: Path) -> None:
    vectors = cloud(10)
    made = store(tmp_path)
    made.rebuild(range(1, 10), vectors[:9], generation=1)
    before = kept(tmp_path)
    made.add([10], vectors[9:])
    made.delete([1])
    assert (made.count(), made.search(vectors[9], 1)) == (9, [(10, 1.0)])
    other = SqliteVecStore()
    assert other.open(tmp_path, dimension=DIMENSION, generation=1)
    assert (other.count(), kept(tmp_path)) == (9, before)
    assert other.search(vectors[0], 1) == [(1, 1.0)]
    made.flush(generation=2)
    assert other.search(vectors[0], 1) == [(1, 1.0)], "whoever has the old file open goes on with it"
    assert not SqliteVecStore().open(tmp_path, dimension=DIMENSION, generation=1)
    again = SqliteVecStore()
    assert again.open(tmp_path, dimension=DIMENSION, generation=2)
    assert again.search(vectors[9], 1) == [(10, 1.0)]
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_an_interrupted_write_leaves_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    made = store(tmp_path)
    made.rebuild([1, 2], cloud(2), generation=1)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "replace") if failing == "replace" else (os, "fsync")), refuse)
        with pytest.raises(ResourceError, match="No space left"):
            made.rebuild([1, 2, 3], cloud(3), generation=2)
        made.add([4], cloud(1, seed=4))
        with pytest.raises(ResourceError, match="No space left"):
            made.flush(generation=3)
    assert made.count() == 4, "the new index serves on"
    old = SqliteVecStore()
    assert old.open(tmp_path, dimension=DIMENSION, generation=1)
    assert old.count() == 2
    assert len(kept(tmp_path)) == 1
    made.flush(generation=3)
    assert SqliteVecStore().open(tmp_path, dimension=DIMENSION, generation=3)


def test_where_nothing_can_be_written_it_serves_from_memory(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file where the folder should be")
    made = store(tmp_path / "index")
    with pytest.raises(ResourceError, match="cannot write the vector index") as caught:
        made.rebuild([1, 2], cloud(2), generation=1)
    assert caught.value.where == str(tmp_path / "index")
    assert made.search(cloud(2)[1], 1) == [(2, 1.0)]


KILLED = """
import sys
from pathlib import Path
import numpy as np
from inhouse_sample_sqlitevec.store import SqliteVecStore
store = SqliteVecStore()
store.open(Path(sys.argv[1]), dimension=16, generation=1)
rows = np.random.default_rng(0).normal(size=(3000, 16)).astype("float32")
generation = 1
while True:
    store.rebuild(range(1, 3001 - generation % 2), rows[: 3000 - generation % 2], generation=generation)
    print(generation, flush=True)
    generation += 1
"""


@pytest.mark.parametrize("after", [1, 2, 5])
def test_killed_while_writing_a_whole_index_is_left(tmp_path: Path, after: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.stdout]
    left = SqliteVecStore()
    found = [each for each in (told[-1], told[-1] + 1) if left.open(tmp_path, dimension=DIMENSION, generation=each)]
    assert found, "neither the last index nor the one that was being written is whole"
    assert left.open(tmp_path, dimension=DIMENSION, generation=found[0])
    assert left.count() == 3000 - found[0] % 2
    left.rebuild([1], cloud(1), generation=1)
    assert len(kept(tmp_path)) == 1, "what the killed one left is swept up"


def test_deleted_vectors_give_their_room_back(tmp_path: Path) -> None:
    vectors = cloud(20 * CHUNK)
    ids = range(1, len(vectors) + 1)
    made = store(tmp_path)
    made.rebuild(ids, vectors, generation=1)
    (path,) = tmp_path.iterdir()
    large = path.stat().st_size
    gone = [key for key in ids if key % 4]
    made.delete(gone)  # no chunk is empty
    made.flush(generation=2)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < large / 2
    assert made.count() == len(vectors) - len(gone)
    assert made.search(vectors[3], 1) == [(4, 1.0)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["add", "delete", "reopen"]), st.sets(st.integers(1, 40))), max_size=9))
def test_behaves_as_a_dictionary_of_vectors(tmp_path: Path, steps: list[tuple[str, set[int]]]) -> None:
    made = SqliteVecStore()
    assert not made.open(tmp_path, dimension=DIMENSION, generation=10_000)
    truth: dict[int, Vectors] = {}
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
            made = SqliteVecStore()
            assert made.open(tmp_path, dimension=DIMENSION, generation=number)
        assert made.count() == len(truth)
        assert sorted(key for key, _ in made.search(np.ones(DIMENSION), 100)) == sorted(truth)
        for key, vector in truth.items():
            assert made.search(vector, 1) == [(key, 1.0)]
    made.close()


def test_says_what_is_wrong_with_a_call(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not open"):
        SqliteVecStore().count()
    with pytest.raises(ValueError, match="dimension 0"):
        SqliteVecStore().open(tmp_path, dimension=0, generation=1)
    made = store(tmp_path)
    for ids, vectors, why in (
        ([1], cloud(2), "1 ids for 2"),
        ([1, 1], cloud(2), "twice"),
        ([0], cloud(1), "between 1"),
        ([1], np.ones((1, 3)), "dimension"),
    ):
        with pytest.raises(ValueError, match=why):
            made.add(ids, vectors)
        with pytest.raises(ValueError, match=why):
            made.rebuild(ids, vectors, generation=1)
    with pytest.raises(ValueError, match="one vector"):
        made.search(cloud(2), 1)
    made.close()
    with pytest.raises(ValueError, match="not open"):
        made.search(cloud(1), 1)


def test_threads_search_while_it_is_flushed_and_rebuilt(tmp_path: Path) -> None:
    vectors = cloud(500)
    made = store(tmp_path)
    made.rebuild(range(1, 501), vectors, generation=1)
    stop, problems = threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not stop.is_set():
                assert made.search(vectors[7], 1) == [(8, 1.0)]
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for generation in range(2, 12):
        made.add([600 + generation], cloud(1, seed=generation))
        made.flush(generation=generation)
        made.rebuild(range(1, 501), vectors, generation=generation)
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems, problems


def test_a_copy_that_outgrows_its_cache_is_whole(tmp_path: Path) -> None:
    """It goes to a temporary file: 6,000 vectors of 385 numbers are 9 MB."""
    vectors = cloud(6000, dimension=384)
    made = SqliteVecStore(Options(cache=1))
    made.open(tmp_path, dimension=384, generation=1)
    made.rebuild(range(1, 6001), vectors, generation=1)
    made.delete(range(1, 3001))
    assert made.search(vectors[5000], 1) == [(5001, 1.0)]
    assert made.search(vectors[10], 1) != [(11, 1.0)]
    made.flush(generation=2)
    again = Table.opened(next(tmp_path.iterdir()), 384, 1)
    assert again.count() == 3000
    again.close()
