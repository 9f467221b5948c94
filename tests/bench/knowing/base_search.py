"""A child that opens a knowledge base and searches it as `inhouse ask` does: words, vectors, passages.

The job: ``folder`` (of the base), ``queries``, ``k``. A search embeds its query, too.
"""

from __future__ import annotations

import time
from pathlib import Path

from training.child import answer, job, peak_bytes

from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.indexer import SqliteIndexer
from inhouse_minilm.embedder import MiniLM
from knowing.rows import percentile

WARMUP = 10
"""Searches before the clock: the first loads the encoder."""


def main() -> None:
    """Searches and answers."""
    asked = job()
    services = {"embedder": MiniLM(), "vector_store": HnswlibStore()}
    started = time.perf_counter()
    base = SqliteIndexer().open(Path(asked["folder"]), services)
    opened = time.perf_counter() - started
    for query in asked["queries"][:WARMUP]:
        base.search(query, asked["k"])
    seconds = []
    for query in asked["queries"]:
        started = time.perf_counter()
        found = base.search(query, asked["k"])
        seconds.append(time.perf_counter() - started)
        assert len(found) == asked["k"]
    answer(
        opened=opened,
        median=percentile(seconds, 50),
        p95=percentile(seconds, 95),
        peak_bytes=peak_bytes(),
        found=len(seconds),
    )
    base.close()


if __name__ == "__main__":
    main()
