"""An open knowledge base: a dense and a lexical leg, their scores added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from inhouse.errors import PluginError
from inhouse.protocols import Embedder, VectorStore
from inhouse.values import Passage
from inhouse_knowledge import Options
from inhouse_knowledge.chunking import embedded_text
from inhouse_knowledge.reader import DocumentRow, Reader, Vectors

Rerank = Callable[[str, Sequence[str]], Any]
"""A query and texts to one score each, the higher the better."""

LONGEST_QUERY = 4_000  # characters; more than any embedder reads, less than what takes long to tokenise
DEPTH = 50  # candidates of each leg; more are never needed for k up to 10
DIGITS = 6  # float32 sums differ from here on: equal scores must count as equal


@frozen
class Legs:
    """What was found by chunk id: BM25 over the best BM25, and the cosine similarity."""

    words: Mapping[int, float] = field(factory=dict)
    vectors: Mapping[int, float] = field(factory=dict)

    def fused(self, dense_weight: float, lexical_weight: float) -> list[tuple[int, float]]:
        """Chunk ids and weighted sums, best first, equal ones by id; a leg without weight is left out."""
        words = self.words if lexical_weight > 0 else {}
        vectors = self.vectors if dense_weight > 0 else {}
        scores = {
            key: round(lexical_weight * words.get(key, 0.0) + dense_weight * vectors.get(key, 0.0), DIGITS)
            for key in {**words, **vectors}
        }
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


class SqliteKnowledge:
    """A :class:`inhouse.protocols.KnowledgeBase`; every method may be called from any thread.

    The score of a passage is ``dense_weight * cosine + lexical_weight * bm25 / best bm25 of the query``; the
    ``rerank`` best by that are put in order by the embedder's cross-encoder, if it has one, whose scores they get.
    """

    def __init__(self, reader: Reader, embedder: Embedder, store: VectorStore | None, options: Options) -> None:
        self._reader = reader
        self._embedder = embedder
        self._store = store
        self._options = options
        self._rerank: Rerank | None = getattr(embedder, "rerank", None)

    def search(self, query: str, k: int = 5, *, where: Mapping[str, Any] | None = None) -> list[Passage]:
        """Up to k passages, best first, equal ones in the order of the documents; none for an empty query.

        Only passages of documents whose metadata has, for every key of ``where``, its value or one of its list.
        Raises ``DataError`` for a value that is no string, number, boolean, or list of those.
        """
        rerank = self._options.rerank if self._rerank else 0
        legs = self.legs(query, max(DEPTH, 4 * k, rerank), where) if k > 0 else Legs()
        top = legs.fused(self._options.dense_weight, self._options.lexical_weight)[: max(k, rerank)]
        passages = self._reader.passages([key for key, _ in top])
        if self._rerank and rerank:
            top = self._reranked(self._rerank, query, passages)
        return [evolve(passages[key], score=score) for key, score in top[:k] if key in passages]

    def _reranked(self, rerank: Rerank, query: str, passages: Mapping[int, Passage]) -> list[tuple[int, float]]:
        """Chunk ids and the cross-encoder's scores, best first, equal ones by id."""
        if not passages:
            return []
        texts = [embedded_text(each.title, each.text) for each in passages.values()]
        scores = np.asarray(rerank(query[:LONGEST_QUERY], texts), np.float32)
        if scores.shape != (len(texts),) or not np.isfinite(scores).all():
            raise PluginError(f"the embedder {self._embedder.name} gave no {len(texts)} finite scores")
        found = zip(passages, np.round(scores, DIGITS).tolist(), strict=True)
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def legs(self, query: str, depth: int, where: Mapping[str, Any] | None = None) -> Legs:
        """``depth`` candidates of each leg that has a weight, and the cosines of those that only the words found."""
        query = query[:LONGEST_QUERY].strip()
        if not query:
            return Legs()
        words: dict[int, float] = {}
        if self._options.lexical_weight > 0:
            found = self._reader.lexical(query, depth, where)
            best = max((score for _, score in found), default=0.0)
            words = {key: score / best for key, score in found} if best > 0 else {}
        if self._store is None:
            return Legs(words)
        vector = embedded(self._embedder, [query])[0]
        among = self._reader.allowed(where) if where else None
        near = dict(self._store.search(vector, depth, among=among))
        ids, vectors = self._reader.vectors([key for key in words if key not in near])
        cosines: Vectors = np.vecdot(vectors, vector)  # no BLAS: its threads wait busily afterwards
        return Legs(words, near | dict(zip(ids.tolist(), np.round(cosines, DIGITS).tolist(), strict=True)))

    def count(self) -> int:
        """How many passages there are."""
        return self._reader.count()

    def documents(self) -> list[DocumentRow]:
        """What is in it, in the order in which it was added."""
        return self._reader.documents()

    @property
    def reader(self) -> Reader:
        """The file that it searches."""
        return self._reader

    def close(self) -> None:
        """Closes the file and the vector index; the embedder is its owner's."""
        self._reader.close()
        if self._store is not None:
            self._store.close()


def embedded(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The embedder's vectors, float32 (len(texts), dimension). Raises ``PluginError`` when they are none."""
    vectors = np.ascontiguousarray(embedder.embed(texts), dtype=np.float32)
    if vectors.shape != (len(texts), embedder.dimension) or not np.isfinite(vectors).all():
        raise PluginError(
            f"the embedder {embedder.name} gave no {len(texts)} finite vectors of {embedder.dimension} numbers"
        )
    return vectors
