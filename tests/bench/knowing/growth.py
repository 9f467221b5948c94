"""How time and memory grow: whole bases of 1k, 10k and 100k passages, and the vector store up to 1M vectors.

Passages are real text of 30 to 60 tokens (beyond some 13,000 the same text cut at other places), questions are those
of XQuAD. The vectors for the store alone are those of ``vectors.py``. Every figure is that of a process of its own.
An exponent is the b of ``n ** b``, by least squares over the logarithms. The table is in
build/bench/knowledge-growth.json. The store of 1M vectors is kept, and not filled again while it still opens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from attrs import asdict, frozen
from training.measure import FOLDER, Answer, Row, megabytes

from inhouse.artifacts import write_text

from .ingest import LONGEST, SHORTEST
from .rows import exponent, told
from .sides import HERE, encoder, ours
from .texts import Cutter, articles, lengths, paragraphs, write_corpus

K = 5
BASES, QUICK_BASES = (1_000, 10_000, 100_000), (100, 300, 1_000)
STORES, QUICK_STORES = (1_000, 10_000, 100_000, 1_000_000), (1_000, 5_000, 25_000)
KEPT = 1_000_000
"""A store of so many takes long to fill: it stays where it is."""

FEW = 1_000
"""Up to so many, everything is done three times and the median taken; beyond, once."""

QUESTIONS = 200


@frozen
class Point:
    """A base (or a store alone) of ``count`` passages. Seconds and MB; ``fill_seconds`` is 0 where it was there."""

    what: str
    count: int
    fill_seconds: float
    fill_mb: float
    disk_mb: float
    open_seconds: float
    search_ms: float
    search_p95_ms: float
    search_mb: float
    recall: float = 0.0

    def line(self) -> str:
        """A row of the table."""
        filled = f"{self.fill_seconds:8.2f} s, {self.fill_mb:6.0f} MB" if self.fill_seconds else "  kept from before  "
        found = f", recall@10 {self.recall:.4f}" if self.recall else ""
        return (
            f"  {self.what} of {self.count:>9,}: made in {filled}; opened in {self.open_seconds:6.3f} s, a search"
            f" {self.search_ms:6.2f} ms, p95 {self.search_p95_ms:6.2f} ms, {self.search_mb:6.0f} MB{found}"
        )


def measure(quick: bool) -> list[Row]:
    """Makes, opens and searches every size, and fits."""
    bases, stores = (QUICK_BASES, QUICK_STORES) if quick else (BASES, STORES)
    cutter = Cutter(encoder(), articles())
    questions = [text for each in paragraphs() for text in each.questions][:: 1190 // QUESTIONS][:QUESTIONS]
    points = [_base(cutter, count, questions, 1 if quick else 3) for count in bases]
    points += [_store(count, 1 if quick else 3) for count in stores]
    name = "knowledge-growth-quick.json" if quick else "knowledge-growth.json"
    write_text(FOLDER / name, json.dumps([asdict(each) for each in points], indent=1) + "\n")
    print(f"  written: build/bench/{name}", flush=True)
    return rows(points)


def _base(cutter: Cutter, count: int, questions: Sequence[str], repeats: int) -> Point:
    pieces = cutter.pieces(count, SHORTEST, LONGEST)
    corpus, folder = write_corpus(HERE / "corpus", pieces), HERE / "growth"
    made, found = [], []
    for _ in range(repeats if count <= FEW else 1):
        made.append(ours("ours_ingest", corpus=str(corpus), folder=str(folder), queries=[]).run())
        found.append(ours("base_search", folder=str(folder / "knowledge"), queries=list(questions), k=K).run())
    shutil.rmtree(folder)
    point = _point("base", count, made, found, made[0]["bytes"] / 1e6)
    print(f"{point.line()}; {lengths(pieces)}", flush=True)
    return point


def _store(count: int, repeats: int) -> Point:
    folder, kept = HERE / f"store-{count}", count >= KEPT
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
    job: dict[str, Any] = {"count": count, "folder": str(folder), "queries": QUESTIONS, "k": 10}
    made = [ours("store_growth", **job, fill=True).run()]
    found = [ours("store_growth", **job, fill=False).run() for _ in range(repeats if count <= FEW else 1)]
    disk = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    if not kept:
        shutil.rmtree(folder)
    point = _point("store", count, made, found, disk)
    print(point.line(), flush=True)
    return point


def _point(what: str, count: int, made: Sequence[Answer], found: Sequence[Answer], disk_mb: float) -> Point:
    def of(answers: Sequence[Answer], name: str) -> float:
        return median(float(each[name]) for each in answers)

    return Point(
        what=what,
        count=count,
        fill_seconds=of(made, "seconds"),
        fill_mb=median(map(megabytes, made)),
        disk_mb=disk_mb,
        open_seconds=of(found, "opened"),
        search_ms=1e3 * of(found, "median"),
        search_p95_ms=1e3 * of(found, "p95"),
        search_mb=median(map(megabytes, found)),
        recall=found[0].get("recall", 0.0),
    )


FIGURES: tuple[tuple[str, Callable[[Point], float]], ...] = (
    ("seconds to make", lambda each: each.fill_seconds),
    ("memory to make", lambda each: each.fill_mb),
    ("disk", lambda each: each.disk_mb),
    ("seconds to open", lambda each: each.open_seconds),
    ("a search", lambda each: each.search_ms),
    ("memory to search", lambda each: each.search_mb),
)


def rows(points: Sequence[Point]) -> list[Row]:
    """An exponent for each figure of bases and of stores; a figure that a kept store has not is left out of its fit."""
    found = []
    for what in ("base", "store"):
        own = [each for each in points if each.what == what]
        for name, figure in FIGURES:
            known = [each for each in own if figure(each) > 0]
            if len(known) > 1:
                counts = [each.count for each in known]
                value = exponent(counts, [figure(each) for each in known])
                told_of = f"{counts[0]:,} to {counts[-1]:,}"
                found.append(told(f"growth of a {what}, exponent: {name}", told_of, value, 1.0))
        largest = own[-1]
        work = f"a {what} of {largest.count:,}"
        found.append(told(f"{work}: a search", f"{own[0].count:,}", largest.search_ms, own[0].search_ms, unit="ms"))
    return found
