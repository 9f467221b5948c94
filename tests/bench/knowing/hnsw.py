"""The vector store `hnswlib` with 100,000 vectors of 384 numbers, against the bare library on the same graph.

The vectors are a Gaussian mixture on the sphere: 1,000 subjects of unequal size, seeded (``vectors.py``); the queries
are drawn from it, too. One query at a time, one thread, 10 nearest. Both search with equal recall.
"""

from __future__ import annotations

import shutil
from statistics import median
from typing import Any

from training.measure import Answer, BenchError, Goal, Row

from .rows import at_least, under
from .sides import HERE, ours

K = 10
RECALL, TIMES = 0.98, 1.05
OURS, BARE = "ours", "bare"


def measure(quick: bool) -> list[Row]:
    """Raises ``BenchError`` where both sides do not find alike."""
    count, queries, turns = (25_000, 100, 3) if quick else (100_000, 1000, 9)
    HERE.mkdir(parents=True, exist_ok=True)
    child = ours("hnsw_turns", count=count, queries=queries, k=K, turns=turns, folder=str(HERE / "hnsw"))
    answer = child.run()
    shutil.rmtree(HERE / "hnsw")
    recalls, (own, ef) = answer["recalls"], answer["ef"]
    print(
        f"  {', '.join(f'{name} {each}' for name, each in answer['versions'].items())}; recall@{K} over {queries} queries:"
        f" ours {recalls[OURS]:.4f} with ef {own}, the bare library {recalls[BARE]:.4f} with ef {ef}",
        flush=True,
    )
    for turn in range(turns):
        means = [1e6 * answer["means"][name][turn] for name in (OURS, BARE)]
        print(f"  {turn + 1}/{turns} ours {means[0]:.0f} us a search, the bare library {means[1]:.0f} us", flush=True)
    if recalls[BARE] < recalls[OURS] - 0.001:
        raise BenchError("the bare library does not reach our recall, so there is nothing to compare")
    return rows(count, answer)


def rows(count: int, answer: Answer) -> list[Row]:
    """Of what the child answered."""
    size = f"{count // 1000}k x 384"
    turns: dict[str, list[Any]] = {
        name: [{"us": 1e6 * each} for each in answer["means"][name]] for name in (OURS, BARE)
    }
    p95, rebuild = ({name: median(each) * 1e3 for name, each in answer["p95"].items()}, answer["rebuild"])
    recalls = answer["recalls"]
    return [
        Goal(
            f"hnswlib, {size}: a search",
            "bare hnswlib",
            OURS,
            BARE,
            lambda each: each["us"],
            "us",
            TIMES,
            at_least=False,
        ).row(turns),
        at_least(f"hnswlib, {size}: recall@{K}", "bare hnswlib", recalls[OURS], recalls[BARE], RECALL),
        under(f"hnswlib, {size}: a search, p95", "bare hnswlib", p95[OURS], p95[BARE], 3, unit="ms"),
        under(f"hnswlib, {size}: open", "", median(answer["opened"]), 0.0, 1, unit="s"),
        under(f"hnswlib, {size}: rebuild", "bare, 1 thread, no file", rebuild[OURS], rebuild[BARE], 60, unit="s"),
    ]
