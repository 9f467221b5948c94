"""What every vector store has to hold: the rules of ``docs/knowledge.md``, against search written out in numpy.

Each check is called with ``make``, which gives a new store that is not open yet (of the same place each time), and an
empty folder. Checks use generations of their own, so they may share a server.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inhouse.errors import DataError
from inhouse.protocols import VectorStore

Vectors = npt.NDArray[np.float32]
Make = Callable[[], VectorStore]

DIMENSION = 16
SECONDS = float(os.environ.get("INHOUSE_THREADS_SECONDS", "2"))
"""How long :func:`check_threads` goes on; a minute before a release."""


def cloud(count: int, seed: int = 0) -> Vectors:
    """Vectors around a few centres, float32 (count, 16), as the vectors of texts lie."""
    drawn = np.random.default_rng(seed)
    centres = drawn.normal(size=(12, DIMENSION))
    return (centres[drawn.integers(12, size=count)] + 0.4 * drawn.normal(size=(count, DIMENSION))).astype(np.float32)


def nearest(vectors: Vectors, query: Vectors, k: int, among: Sequence[int]) -> list[int]:
    """The ids (row + 1) of the k of ``among`` with the highest cosine to ``query``."""
    chosen = np.asarray(among) - 1
    rows = vectors[chosen] / np.linalg.norm(vectors[chosen], axis=1, keepdims=True)
    scores = np.round(rows @ (query / np.linalg.norm(query)), 6)
    return [int(at) + 1 for at in chosen[np.lexsort((chosen, -scores))[:k]]]


def check_recall(make: Make, folder: Path) -> None:
    """At least 98 % of the ten nearest, whatever is filtered; k results whenever there are k; best first."""
    vectors, store = cloud(3000), _opened(make, folder, 101)
    store.rebuild(range(1, 3001), vectors, generation=101)
    for among in (None, range(1, 3001, 2), range(7, 3001, 100), range(5, 10)):
        found = wanted = 0
        for query in cloud(40, seed=1):
            hits = store.search(query, 10, among=among)
            truth = nearest(vectors, query, 10, among or range(1, 3001))
            assert len(hits) == len(truth), f"{len(hits)} results where there are {len(truth)}"
            assert {key for key, _ in hits} <= set(among or range(1, 3001)), "found what the filter leaves out"
            assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0])), "not best first, or equal ones not by id"
            found += len(set(truth) & {key for key, _ in hits})
            wanted += len(truth)
        assert found >= 0.98 * wanted, f"recall {found / wanted:.3f} among {among}"
    ((key, score),) = store.search(vectors[41] * 7, 1)
    assert (key, score) == (42, 1.0), "a vector is not nearest to itself, or length counts"
    store.close()


def check_generations(make: Make, folder: Path) -> None:
    """``open`` is True only for what was kept last, under its generation and dimension."""
    first = _opened(make, folder, 201)
    first.rebuild([1, 2], cloud(2), generation=201)
    first.add([3], cloud(1, seed=3))
    first.flush(generation=202)
    first.close()
    for generation, dimension in ((202, DIMENSION + 1), (203, DIMENSION)):
        other = make()
        assert not other.open(folder, dimension=dimension, generation=generation)
        assert other.count() == 0
        assert other.search(np.ones(dimension), 3) == []
        other.close()
    again = make()
    if again.open(folder, dimension=DIMENSION, generation=202):  # a store may keep nothing
        assert again.count() == 3
        assert [key for key, _ in again.search(cloud(1, seed=3)[0], 1)] == [3]
    again.close()


def check_changes(make: Make, folder: Path) -> None:
    """Added, replaced, deleted and added again, more asked for than there is, everything deleted."""
    vectors, store = cloud(400), _opened(make, folder, 301)
    store.rebuild(range(1, 401), vectors, generation=301)
    store.delete(range(1, 391))
    store.delete([1, 7777])
    assert store.count() == 10
    assert sorted(key for key, _ in store.search(vectors[0], 50)) == list(range(391, 401))
    assert {key for key, _ in store.search(vectors[0], 5, among=[1, 398, 399, 400, 9999])} == {398, 399, 400}
    assert store.search(vectors[0], 5, among=[]) == store.search(vectors[0], 0) == []
    store.delete(range(391, 401))
    assert (store.count(), store.search(vectors[0], 3)) == (0, [])
    store.add(range(1, 401), vectors)
    store.add([10], vectors[300:301])
    assert store.count() == 400
    assert [key for key, _ in store.search(vectors[300], 2)] == [10, 301]
    store.rebuild([5], vectors[:1], generation=302)
    assert [key for key, _ in store.search(vectors[9], 3)] == [5]
    store.close()


def check_odd_vectors(make: Make, folder: Path) -> None:
    """Equal, zero and huge vectors are found; NaN, infinity and what does not fit is refused with nothing changed."""
    store = _opened(make, folder, 401)
    store.rebuild(range(1, 1001), np.ones((1000, DIMENSION), np.float32), generation=401)
    equal = store.search(np.ones(DIMENSION), 3)  # any three: a graph does not see all of them
    assert [score for _, score in equal] == [1.0, 1.0, 1.0]
    assert sorted(equal) == equal
    store.add([2000], np.zeros((1, DIMENSION)))
    assert store.search(-np.ones(DIMENSION), 1) == [(2000, 0.0)]
    assert [score for _, score in store.search(np.zeros(DIMENSION), 2)] == [0.0, 0.0]
    store.add([2001], np.full((1, DIMENSION), -3e38))
    assert store.search(-np.ones(DIMENSION), 1) == [(2001, 1.0)]
    for bad in (np.nan, np.inf):
        _refused(DataError, lambda bad=bad: store.add([3000], np.full((1, DIMENSION), bad)))  # type: ignore[misc]
        _refused(DataError, lambda bad=bad: store.search(np.full(DIMENSION, bad), 1))  # type: ignore[misc]
    for ids, vectors in (
        ([1], cloud(2)),
        ([1, 1], cloud(2)),
        ([0], cloud(1)),
        ([1 << 48], cloud(1)),
        ([1], cloud(1)[:, :3]),
    ):
        _refused(ValueError, lambda ids=ids, vectors=vectors: store.add(ids, vectors))  # type: ignore[misc]
    assert store.count() == 1002
    store.close()


def check_exact_ties(make: Make, folder: Path) -> None:
    """Of equal vectors those with the lowest ids. Only where every vector is compared; none of ``CHECKS``."""
    store = _opened(make, folder, 601)
    store.rebuild(range(1, 1001), np.ones((1000, DIMENSION), np.float32), generation=601)
    assert store.search(np.ones(DIMENSION), 3) == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert store.search(np.ones(DIMENSION), 2, among=range(500, 900)) == [(500, 1.0), (501, 1.0)]
    store.close()


def check_threads(make: Make, folder: Path, *, seconds: float = SECONDS) -> None:
    """Eight threads search beside two that add and one that deletes: as many as asked for, only ids that may be there.

    Ids to 300 stay, those to 900 are deleted for good, those above come and go.
    """
    vectors, store = cloud(1800), _opened(make, folder, 501)
    store.rebuild(range(1, 901), vectors[:900], generation=501)
    crowd, gone = _Crowd(seconds), [300]

    def search(drawn: np.random.Generator) -> None:
        before, stays = gone[0], int(drawn.integers(300))
        hits = store.search(vectors[stays], 10)
        assert len({key for key, _ in hits}) == 10, f"{hits} where 300 stay"
        assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0])), "not best first, or equal ones not by id"
        assert all(1 <= key <= 300 or before < key <= 1800 for key, _ in hits), f"{hits} after {before} were deleted"
        assert hits[0] == (stays + 1, 1.0), f"{hits[0]} is nearer to vector {stays + 1} than itself"

    def add(drawn: np.random.Generator, first: int) -> None:
        start = int(drawn.integers(first, first + 410))
        store.add(range(start + 1, start + 41), vectors[start : start + 40])

    def delete(drawn: np.random.Generator) -> None:
        upto = min(gone[0] + 10, 900)
        store.delete(range(gone[0] + 1, upto + 1))
        gone[0] = upto
        store.delete((drawn.permutation(900)[:60] + 901).tolist())

    works = [search] * 8 + [lambda drawn: add(drawn, 900), lambda drawn: add(drawn, 1350), delete]
    crowd.work(works)
    everything = sorted(key for key, _ in store.search(vectors[0], 2000))
    assert len(everything) == store.count()
    assert set(everything) <= {*range(1, 301), *range(gone[0] + 1, 1801)}
    store.delete(range(301, 1801))
    assert sorted(key for key, _ in store.search(vectors[0], 2000)) == list(range(1, 301))
    store.close()


class _Crowd:
    """Threads that do their work again and again for so many seconds; what one raises ends all and is raised."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._problems: list[BaseException] = []

    def work(self, works: Sequence[Callable[[np.random.Generator], None]]) -> None:
        threads = [threading.Thread(target=self._repeat, args=each) for each in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._problems:
            raise self._problems[0]

    def _repeat(self, seed: int, work: Callable[[np.random.Generator], None]) -> None:
        drawn = np.random.default_rng(seed)
        try:
            work(drawn)  # at least once, however slow the machine
            while time.monotonic() < self._until and not self._problems:
                work(drawn)
        except BaseException as error:
            self._problems.append(error)


CHECKS = (check_recall, check_generations, check_changes, check_odd_vectors, check_threads)
"""For ``pytest.mark.parametrize``."""


def _opened(make: Make, folder: Path, generation: int) -> VectorStore:
    store = make()
    assert not store.open(folder, dimension=DIMENSION, generation=generation)
    assert store.count() == 0
    return store


def _refused(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")
