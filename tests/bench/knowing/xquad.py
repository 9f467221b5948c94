"""How well a base is searched: XQuAD English, 1,190 questions over 240 paragraphs, each of them one passage.

A paragraph's title is its article's. The weights are chosen as ``inhouse knowledge tune`` chooses them, on one half of
the questions (every other one), and measured on the other half; then the other way round. So every question counts
once in the rows of both legs together, with weights that it had no part in. The words and the vectors alone have no
weights to choose. Both legs with the weights that ship, on passages as they are cut by default, stand beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from training.measure import BenchError, Row

from inhouse.values import Artifact
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge import Options
from inhouse_knowledge.indexer import SqliteIndexer
from inhouse_knowledge.quality import CUT, Question, Score, best
from inhouse_knowledge.quality import measure as measured
from inhouse_knowledge.search import SqliteKnowledge
from inhouse_minilm.embedder import MiniLM
from inhouse_testing.recording import RecordingStep

from .rows import at_least, not_below, told
from .sides import HERE, encoder, peer
from .texts import Paragraph, paragraphs

WHOLE = 100_000
"""Tokens of a passage: every paragraph is one."""

RECALL_5 = 0.97
APART = 0.005
"""Most that the nDCG of the vectors may differ from that of sentence-transformers' in fp32."""

PEER = "sentence-transformers"


@frozen
class Quality:
    """Means over ``count`` questions."""

    recall_1: float
    recall_5: float
    ndcg_10: float
    count: int

    def line(self, name: str) -> str:
        """For the reader."""
        return (
            f"  {name + ':':58} recall@1 {self.recall_1:.3f}, recall@5 {self.recall_5:.3f}, nDCG@10 {self.ndcg_10:.4f}"
        )


def measure(quick: bool) -> list[Row]:
    """Raises ``BenchError`` where our vectors find something else than sentence-transformers' do."""
    found = paragraphs()
    questions = [Question(text, frozenset([each.name])) for each in found for text in each.questions]
    questions = questions[:: len(questions) // 100] if quick else questions
    print(f"  {len(questions)} questions over {len(found)} paragraphs", flush=True)
    with base(found, Options(chunk_tokens=WHOLE, lexical_weight=1.0), HERE / "xquad") as whole:
        halves = [measured(whole, questions[start::2], lambda _: None) for start in (0, 1)]
    legs, fused = alone(halves), crosswise(halves)
    shipped = _shipped(found, questions)
    peer = _theirs(found, questions)
    for name, each in {**legs, "fused, weights from the other half": fused}.items():
        print(each.line(name), flush=True)
    print(shipped.line("fused, weights and passages as shipped"), peer.line(f"vectors, {PEER}"), sep="\n", flush=True)
    if abs(legs["vectors"].ndcg_10 - peer.ndcg_10) > APART:
        raise BenchError("our vectors find other paragraphs than those of sentence-transformers")
    return _rows(legs, fused, shipped, peer)


@contextmanager
def base(found: Sequence[Paragraph], options: Options, folder: Path) -> Iterator[SqliteKnowledge]:
    """A base of these paragraphs as the recipe's step makes it, open with ``options``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = [{"id": each.name, "title": each.title, "text": each.text, "path": ""} for each in found]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    services: dict[str, Any] = {"embedder": MiniLM(), "vector_store": HnswlibStore()}
    step: Any = RecordingStep.at(folder / "step", "knowledge")
    step.services = services
    indexer = SqliteIndexer(options)
    indexer.index(step, Artifact("text/corpus", folder, "0"))
    opened = indexer.open(step.output, services)
    try:
        yield opened
    finally:
        opened.close()


def alone(halves: Sequence[Sequence[Score]]) -> dict[str, Quality]:
    """Words and vectors without the other, over both halves."""
    return {
        "words": together([next(each for each in half if each.dense_weight == 0) for half in halves]),
        "vectors": together([next(each for each in half if each.lexical_weight == 0) for half in halves]),
    }


def crosswise(halves: Sequence[Sequence[Score]]) -> Quality:
    """Each of the two halves with the weights that are best on the other one."""
    found = []
    for half, other in (halves, halves[::-1]):
        chosen = best(other)
        weights = (chosen.dense_weight, chosen.lexical_weight)
        found.append(next(each for each in half if (each.dense_weight, each.lexical_weight) == weights))
        print(f"  weights {weights[0]:g} of the vectors and {weights[1]:g} of the words are best on the other half")
    return together(found)


def together(scores: Sequence[Score]) -> Quality:
    """Over all questions of several sets."""
    counts = [len(each.gains) for each in scores]
    figures = ([each.recall_1, each.recall_5, each.ndcg_10] for each in scores)
    means = np.average(list(figures), axis=0, weights=counts)
    return Quality(*map(float, means), sum(counts))


def _shipped(found: Sequence[Paragraph], questions: Sequence[Question]) -> Quality:
    options = Options()
    with base(found, options, HERE / "xquad-shipped") as opened:
        scores = measured(opened, questions, lambda _: None)
    weights = (options.dense_weight, options.lexical_weight)
    return together([next(each for each in scores if (each.dense_weight, each.lexical_weight) == weights)])


def _theirs(found: Sequence[Paragraph], questions: Sequence[Question]) -> Quality:
    """What plain sentence-transformers in fp32 finds by cosine, the same texts embedded."""
    texts = [f"{each.title}\n{each.text}" for each in found] + [each.text for each in questions]
    path, target = HERE / "xquad.json", HERE / "xquad.npy"
    path.write_text(json.dumps(texts), encoding="utf-8")
    job = {"dtype": "", "batch_size": 0, "sort": False, "warmup": 0}
    peer("st_embed", model=str(encoder()), texts=str(path), vectors=str(target), **job).run()
    vectors = np.load(target)
    names = [each.name for each in found]
    wanted = [names.index(next(iter(each.documents))) for each in questions]
    return of_ranks(ranks(vectors[len(found) :] @ vectors[: len(found)].T, wanted))


def ranks(scores: Any, wanted: Sequence[int]) -> list[int]:
    """From 1: where each row of ``scores`` (questions, documents) puts the document that is wanted."""
    return [int((row > row[at]).sum()) + 1 for row, at in zip(scores, wanted, strict=True)]


def of_ranks(found: Sequence[int]) -> Quality:
    """Of questions with one right document each."""
    at = np.array(found)
    gains = np.where(at <= CUT, 1 / np.log2(1 + at), 0.0)
    return Quality(float((at <= 1).mean()), float((at <= 5).mean()), float(gains.mean()), len(at))


def _rows(legs: dict[str, Quality], fused: Quality, shipped: Quality, peer: Quality) -> list[Row]:
    work, words, vectors = f"XQuAD, {fused.count} questions", legs["words"], legs["vectors"]
    name, top = max(legs.items(), key=lambda item: item[1].ndcg_10)
    rows = [
        not_below(f"{work}: nDCG@10", f"best leg, {name}", fused.ndcg_10, top.ndcg_10),
        at_least(f"{work}: recall@5", f"best leg, {name}", fused.recall_5, top.recall_5, RECALL_5),
        told(f"{work}: recall@1", f"best leg, {name}", fused.recall_1, top.recall_1),
        told(f"{work}, as shipped: nDCG@10", f"best leg, {name}", shipped.ndcg_10, top.ndcg_10),
    ]
    for what in ("recall_1", "recall_5", "ndcg_10"):
        said = what.replace("ndcg_10", "nDCG@10").replace("_", "@")
        rows.append(told(f"{work}, words: {said}", "vectors", getattr(words, what), getattr(vectors, what)))
    rows.append(told(f"{work}, vectors: nDCG@10", f"{PEER}, fp32", vectors.ndcg_10, peer.ndcg_10))
    return rows
