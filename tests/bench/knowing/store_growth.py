"""A child that fills the vector store `hnswlib` or, in a process of its own, opens and searches it.

The job: ``count``, ``folder``, ``fill`` (whether it fills), ``queries`` (how many), ``k``. The store that is there
already is not filled again. Memory is what the process had at most before the truth is computed.
"""

from __future__ import annotations

import time
from pathlib import Path

from training.child import answer, job, peak_bytes

from inhouse_hnswlib.store import HnswlibStore
from knowing.rows import percentile
from knowing.vectors import DIMENSION, mixture, nearest, recall

GENERATION = 1


def fill(folder: Path, count: int) -> None:
    """Answers the seconds of `rebuild`; 0 where the store was there."""
    store = HnswlibStore()
    if store.open(folder, dimension=DIMENSION, generation=GENERATION) and store.count() == count:
        answer(seconds=0.0, peak_bytes=0)
        return
    vectors = mixture(count, seed=1)
    started = time.perf_counter()
    store.rebuild(range(1, count + 1), vectors, generation=GENERATION)
    answer(seconds=time.perf_counter() - started, peak_bytes=peak_bytes())


def search(folder: Path, count: int, queries: int, k: int) -> None:
    """Answers how long opening and searching take, the memory, and the recall."""
    asked, store = mixture(queries, seed=2), HnswlibStore()
    started = time.perf_counter()
    assert store.open(folder, dimension=DIMENSION, generation=GENERATION)
    opened, seconds, found = time.perf_counter() - started, [], []
    for query in asked:
        store.search(query, k)
    for query in asked:
        started = time.perf_counter()
        hits = store.search(query, k)
        seconds.append(time.perf_counter() - started)
        found.append([key for key, _ in hits])
    peak = peak_bytes()
    store.close()
    truth = nearest(mixture(count, seed=1), asked, k)
    answer(
        opened=opened,
        median=percentile(seconds, 50),
        p95=percentile(seconds, 95),
        peak_bytes=peak,
        recall=recall(found, truth),
    )


def main() -> None:
    """Fills or searches."""
    asked = job()
    folder = Path(asked["folder"])
    if asked["fill"]:
        fill(folder, asked["count"])
    else:
        search(folder, asked["count"], asked["queries"], asked["k"])


if __name__ == "__main__":
    main()
