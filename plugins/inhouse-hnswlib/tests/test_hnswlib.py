"""The vector store against exact search, damaged files, deletes and threads."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inhouse.errors import ResourceError
from inhouse_hnswlib import Options, files, inhouse_vector_stores, pages
from inhouse_hnswlib.graph import Graph
from inhouse_hnswlib.store import HnswlibStore
from inhouse_testing import stores
from inhouse_vectors.vectors import ranked, unit

DIMENSION = 16
APPROXIMATE = Options(exact_below=0)


def cloud(count: int, seed: int = 0, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def store(folder: Path, options: Options | None = None, dimension: int = DIMENSION) -> HnswlibStore:
    made = HnswlibStore(options)
    assert made.open(folder, dimension=dimension, generation=1) is False
    return made


def exact(vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32], k: int) -> list[int]:
    scores = unit(vectors, vectors.shape[1]) @ unit(query, len(query))[0]
    return [key for key, _ in ranked(np.arange(1, len(vectors) + 1), scores, k)]


def test_declares_one_store_without_loading_hnswlib() -> None:
    (spec,) = inhouse_vector_stores()
    assert (spec.name, spec.kind) == ("hnswlib", "vector_store")


@pytest.mark.parametrize("options", [Options(), APPROXIMATE])
def test_finds_what_exact_search_finds(tmp_path: Path, options: Options) -> None:
    vectors = cloud(800)
    made = store(tmp_path, options)
    made.rebuild(range(1, 801), vectors, generation=1)
    found = hits = 0
    for query in cloud(50, seed=1):
        truth = exact(vectors, query, 10)
        found += len(set(truth) & {key for key, _ in made.search(query, 10)})
        hits += 10
    assert found / hits > 0.98
    (best, score), *_ = made.search(vectors[41] * 7, 3)
    assert best == 42
    assert score == pytest.approx(1, abs=1e-5)


def test_opens_again_to_the_same_answers_and_the_same_bytes(tmp_path: Path) -> None:
    vectors = cloud(300)
    for name in ("one", "two"):
        store(tmp_path / name, APPROXIMATE).rebuild(range(1, 301), vectors, generation=5)
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    again = HnswlibStore(APPROXIMATE)
    assert again.open(tmp_path / "one", dimension=DIMENSION, generation=5)
    first = store(tmp_path / "three", APPROXIMATE)
    first.rebuild(range(1, 301), vectors, generation=5)
    for query in cloud(20, seed=3):
        assert again.search(query, 7) == first.search(query, 7)


def test_refuses_what_is_not_the_index_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).rebuild([1, 2], cloud(2), generation=3)
    assert HnswlibStore().open(tmp_path, dimension=DIMENSION, generation=3)
    assert not HnswlibStore().open(tmp_path, dimension=DIMENSION + 1, generation=3)
    assert not HnswlibStore().open(tmp_path, dimension=DIMENSION, generation=4)
    assert not HnswlibStore(Options(m=8)).open(tmp_path, dimension=DIMENSION, generation=3)
    assert not HnswlibStore().open(tmp_path / "missing", dimension=DIMENSION, generation=3)
    monkeypatch.setattr(files, "version", lambda _: "99")
    assert not HnswlibStore().open(tmp_path, dimension=DIMENSION, generation=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_and_rebuilt(tmp_path: Path, data: st.DataObject) -> None:
    vectors = cloud(20)
    made = store(tmp_path / "index")
    made.rebuild(range(1, 21), vectors, generation=1)
    path = data.draw(st.sampled_from(sorted((tmp_path / "index").iterdir())))
    content = bytearray(path.read_bytes())
    damage = data.draw(st.sampled_from(["flip", "cut", "empty", "gone", "longer"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if damage == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    damaged = {"cut": content[:at], "empty": bytearray(), "longer": content + b"x"}
    path.write_bytes(damaged.get(damage, content))
    if damage == "gone":
        path.unlink()
    again = HnswlibStore()
    opened = again.open(tmp_path / "index", dimension=DIMENSION, generation=1)
    if opened:  # only what is no part of the meaning: white space of the JSON file
        assert path.suffix == ".json"
    else:
        assert again.count() == 0
        assert again.search(vectors[0], 3) == []
        again.rebuild(range(1, 21), vectors, generation=1)
    assert [key for key, _ in again.search(vectors[4], 1)] == [5]
    for left in (tmp_path / "index").iterdir():
        left.unlink()


def test_an_interrupted_write_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store(tmp_path)
    made.rebuild([1, 2], cloud(2), generation=1)
    real = Path.replace
    for failing in (1, 2):
        calls: list[Path] = []

        def replace(source: Path, target: Any, at: int = failing, calls: list[Path] = calls) -> Path:
            calls.append(source)
            if len(calls) == at:
                raise OSError(28, "No space left on device")
            return real(source, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(ResourceError, match="No space left"):
            made.rebuild([1, 2, 3], cloud(3), generation=2)
        monkeypatch.setattr(Path, "replace", real)
        assert made.count() == 3, "the new index serves from memory"
        old = HnswlibStore()
        assert old.open(tmp_path, dimension=DIMENSION, generation=1)
        assert old.count() == 2
    assert not list(tmp_path.glob("*.part"))
    (tmp_path / ".hnswlib-999999999.part").write_bytes(b"of a killed process")
    made.flush(generation=2)
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".bin", ".json"]


def test_a_file_that_hnswlib_wrote_short_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store(tmp_path)
    monkeypatch.setattr(Graph, "save", lambda _, path: Path(path).write_bytes(b"short"))
    with pytest.raises(ResourceError, match="incomplete"):
        made.rebuild([1], cloud(1), generation=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [Options(), APPROXIMATE], ids=["exact", "graph"])
@pytest.mark.parametrize("check", stores.CHECKS)
def test_it_is_a_vector_store(check: Callable[[stores.Make, Path], None], options: Options, tmp_path: Path) -> None:
    check(lambda: HnswlibStore(options), tmp_path)


def test_few_vectors_are_compared_exactly(tmp_path: Path) -> None:
    stores.check_exact_ties(HnswlibStore, tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(["add", "delete", "reopen"]), st.sets(st.integers(1, 40))), max_size=12),
    exactly=st.booleans(),
)
def test_behaves_as_a_dictionary_of_vectors(tmp_path: Path, steps: list[tuple[str, set[int]]], exactly: bool) -> None:
    options = Options() if exactly else APPROXIMATE
    made = HnswlibStore(options)
    assert not made.open(tmp_path / "none", dimension=DIMENSION, generation=10_000)
    truth: dict[int, npt.NDArray[np.float32]] = {}
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
            made = HnswlibStore(options)
            assert made.open(tmp_path / "none", dimension=DIMENSION, generation=number)
        assert made.count() == len(truth)
        everything = made.search(np.ones(DIMENSION), 100)
        assert sorted(key for key, _ in everything) == sorted(truth)
        for key, vector in truth.items():
            best, score = made.search(vector, 1)[0]
            assert best == key
            assert score == pytest.approx(1, abs=1e-5)


def test_says_what_is_wrong_with_a_call(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not open"):
        HnswlibStore().count()
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


def test_a_fifth_of_dead_vectors_is_compacted_away(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.rebuild(range(1, 101), cloud(100), generation=1)
    made.delete(range(1, 21))
    made.flush(generation=2)
    body = json.loads((tmp_path / files.SIDECAR).read_text())["body"]
    assert (body["count"], len(body["dead"])) == (80, 20)
    made.delete([21])
    made.flush(generation=3)
    body = json.loads((tmp_path / files.SIDECAR).read_text())["body"]
    assert (body["count"], len(body["dead"])) == (79, 0)
    assert len(list(tmp_path.iterdir())) == 2


@given(
    others=st.lists(st.integers(0, 40), max_size=8, unique=True).map(sorted),
    taken=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted),
)
def test_only_new_memory_is_marked(others: list[int], taken: list[int]) -> None:
    before = list(zip(others[::2], others[1::2], strict=False))
    new = {at for start, end in pages._without((taken[0], taken[1]), before) for at in range(start, end)}
    assert new == set(range(*taken)) - {at for start, end in before for at in range(start, end)}


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_a_graph_lies_in_huge_pages(tmp_path: Path) -> None:
    def marked() -> int:
        """kB of this process's memory for which huge pages are asked."""
        found, size = 0, 0
        for name, *rest in map(str.split, Path("/proc/self/smaps").read_text().splitlines()):
            size = int(rest[0]) if name == "Size:" else size
            found += size if name == "VmFlags:" and "hg" in rest else 0
        return found

    before = marked()
    graph = Graph.empty(Options(), 256, 40_000)  # more than malloc ever takes from its heap
    assert marked() - before >= 40_000
    graph.add(range(1, 101), unit(np.random.default_rng(0).normal(size=(100, 256)), 256))
    graph.save(str(tmp_path / "graph"))
    del graph
    gc.collect()
    before = marked()
    again = Graph.load(str(tmp_path / "graph"), Options(), 256, set())
    assert marked() - before > 40_000, "a loaded one too"
    assert len(again) == 100
