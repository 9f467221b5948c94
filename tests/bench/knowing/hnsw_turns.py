"""A child that measures the vector store `hnswlib` and the bare library in turns, on the same vectors and queries.

The job: ``count``, ``queries``, ``k``, ``turns``, ``folder`` (of the store). The bare library builds its graph with the
store's parameters, on one thread as the store does, and searches with the store's ``ef`` unless that gives another
recall: then with the smallest that gives ours.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib  # type: ignore[import-untyped]
import numpy as np
from training.child import answer, job, versions

from inhouse_hnswlib import Options
from inhouse_hnswlib.store import HnswlibStore
from knowing.rows import percentile
from knowing.vectors import DIMENSION, mixture, nearest, recall

EQUAL = 0.001
"""Recalls that lie no further apart are equal: one thousandth is one of a hundred queries' ten."""

LARGEST_EF = 2048
Search = Callable[[Any], Any]
"""One query to what that side gives."""


def timed(search: Search, queries: Any) -> list[float]:
    """The seconds of every query."""
    found = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        found.append(time.perf_counter() - started)
    return found


def equal_ef(recall_at: Callable[[int], float], wanted: float, first: int, least: int) -> int:
    """``first`` where its recall is ``wanted`` or as good as that, else the smallest that reaches ``wanted``."""
    if abs(recall_at(first) - wanted) <= EQUAL:
        return first
    low, high = least, LARGEST_EF
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall_at(middle) >= wanted else (middle + 1, high)
    return low


def bare(vectors: Any, options: Options) -> tuple[Any, float]:
    """hnswlib's own index, and the seconds in which it was built."""
    started = time.perf_counter()
    index = hnswlib.Index("cosine", vectors.shape[1])
    index.init_index(len(vectors), options.m, options.ef_construction, options.seed)
    index.add_items(vectors, np.arange(1, len(vectors) + 1), num_threads=1)
    return index, time.perf_counter() - started


def opened(folder: Path) -> tuple[HnswlibStore, float]:
    """The store as it is kept in ``folder``, and the seconds that opening took."""
    store = HnswlibStore()
    started = time.perf_counter()
    there = store.open(folder, dimension=DIMENSION, generation=1)
    seconds = time.perf_counter() - started
    assert there
    return store, seconds


def main() -> None:
    """Builds, compares and answers."""
    asked = job()
    folder, k, options = Path(asked["folder"]), asked["k"], Options()
    vectors, queries = mixture(asked["count"], seed=1), mixture(asked["queries"], seed=2)
    truth = nearest(vectors, queries, k)
    shutil.rmtree(folder, ignore_errors=True)
    store = HnswlibStore()
    store.open(folder, dimension=DIMENSION, generation=1)
    started = time.perf_counter()
    store.rebuild(range(1, len(vectors) + 1), vectors, generation=1)
    rebuilt = time.perf_counter() - started
    store.close()
    store, _ = opened(folder)
    index, built = bare(vectors, options)
    sides: dict[str, Search] = {
        "ours": lambda query: store.search(query, k),
        "bare": lambda query: index.knn_query(query, k=k, num_threads=1),
    }

    def recall_at(ef: int) -> float:
        index.set_ef(ef)
        return recall([sides["bare"](query)[0][0] for query in queries], truth)

    ours = recall([[key for key, _ in sides["ours"](query)] for query in queries], truth)
    ef = equal_ef(recall_at, ours, options.ef_search, k)
    recalls = {"ours": ours, "bare": recall_at(ef)}
    seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(asked["turns"]):
        for name, search in sides.items():
            seconds[name].append(timed(search, queries))
    answer(
        recalls=recalls,
        ef=[options.ef_search, ef],
        means={name: [float(np.mean(each)) for each in turns] for name, turns in seconds.items()},
        p95={name: [percentile(each, 95) for each in turns] for name, turns in seconds.items()},
        rebuild={"ours": rebuilt, "bare": built},
        opened=[opened(folder)[1] for _ in range(asked["turns"])],
        versions=versions("hnswlib", "numpy"),
    )


if __name__ == "__main__":
    main()
