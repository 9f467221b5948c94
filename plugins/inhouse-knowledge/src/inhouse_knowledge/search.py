"""An open knowledge base: a dense and a lexical leg, their scores added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from inhouse.errors import PluginError
from inhouse.protocols import Embedder
from inhouse.values import Passage
from inhouse_knowledge import Options
from inhouse_knowledge.reader import DocumentRow, Reader
from inhouse_knowledge.vectors import DIGITS, DenseLeg, Vectors

LONGEST_QUERY = 4_000  # characters; more than any embedder reads, less than what takes long to tokenise
DEPTH = 50  # candidates of each leg; more are never needed for k up to 10


class SqliteKnowledge:
    """A :class:`inhouse.protocols.KnowledgeBase`; every method may be called from any thread.

    The score of a passage is ``dense_weight * cosine + lexical_weight * bm25 / best bm25 of the query``.
    """

    def __init__(self, reader: Reader, embedder: Embedder, dense: DenseLeg | None, options: Options) -> None:
        self._reader = reader
        self._embedder = embedder
        self._dense = dense
        self._options = options

    def search(self, query: str, k: int = 5) -> list[Passage]:
        """Up to k passages, best first, equal ones in the order of the documents; none for an empty query."""
        query = query[:LONGEST_QUERY].strip()
        if k < 1 or not query:
            return []
        depth = max(DEPTH, 4 * k)
        scores: dict[int, float] = {}
        if self._options.lexical_weight > 0:
            found = self._reader.lexical(query, depth)
            best = max((score for _, score in found), default=0.0)
            if best > 0:
                scores = {key: self._options.lexical_weight * score / best for key, score in found}
        if self._dense is not None:
            self._add_dense(self._dense, scores, query, depth)
        top = sorted(scores.items(), key=lambda item: (-round(item[1], DIGITS), item[0]))[:k]
        passages = self._reader.passages([key for key, _ in top])
        return [evolve(passages[key], score=round(score, DIGITS)) for key, score in top if key in passages]

    def _add_dense(self, dense: DenseLeg, scores: dict[int, float], query: str, depth: int) -> None:
        """Adds the cosine of every candidate, also of those that only the words found."""
        vector = embedded(self._embedder, [query])[0]
        near = dict(dense.search(vector, depth))
        missing = [key for key in scores if key not in near]
        ids, vectors = self._reader.vectors(missing)
        near.update(zip(map(int, ids), map(float, np.round(vectors @ vector, DIGITS)), strict=True))
        for key, cosine in near.items():
            scores[key] = scores.get(key, 0.0) + self._options.dense_weight * cosine

    def count(self) -> int:
        """How many passages there are."""
        return self._reader.count()

    def documents(self) -> list[DocumentRow]:
        """What is in it, in the order in which it was added."""
        return self._reader.documents()

    def close(self) -> None:
        """Closes the file and the vector index; the embedder is its owner's."""
        self._reader.close()
        if self._dense is not None:
            self._dense.close()


def embedded(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The embedder's vectors, float32 (len(texts), dimension). Raises ``PluginError`` when they are none."""
    vectors = np.ascontiguousarray(embedder.embed(texts), dtype=np.float32)
    if vectors.shape != (len(texts), embedder.dimension) or not np.isfinite(vectors).all():
        raise PluginError(
            f"the embedder {embedder.name} gave no {len(texts)} finite vectors of {embedder.dimension} numbers"
        )
    return vectors
