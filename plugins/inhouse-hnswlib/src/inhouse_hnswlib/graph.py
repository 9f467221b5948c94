"""One HNSW graph over unit vectors, with deletes, replacement and exact search. Not safe under threads.

hnswlib updates a vector in place badly (nodes get unreachable), so an id that comes again gets a new
label and its old one is marked deleted. A label is ``id + (version << 48)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import hnswlib  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from inhouse_hnswlib import Options
from inhouse_hnswlib.pages import huge_pages
from inhouse_vectors.vectors import Hit, Vectors, best, checked, ranked, similarities

ID_BITS = 48
ID_MASK = (1 << ID_BITS) - 1
BLOCK = 1024  # vectors per call into hnswlib, so that Ctrl-C is heard


class Graph:
    """``labels`` maps each live id to its label; ``dead`` holds the labels marked deleted."""

    def __init__(self, index: hnswlib.Index, options: Options, dimension: int) -> None:
        self.index = index
        self.options = options
        self.dimension = dimension
        self.labels: dict[int, int] = {}
        self.dead: set[int] = set()
        self._all: tuple[npt.NDArray[np.int64], Vectors] | None = None
        index.set_ef(options.ef_search)

    @classmethod
    def empty(cls, options: Options, dimension: int, capacity: int = BLOCK) -> Graph:
        """A graph without vectors."""
        index = hnswlib.Index("ip", dimension)
        with huge_pages():
            index.init_index(max(capacity, 1), options.m, options.ef_construction, options.seed)
        return cls(index, options, dimension)

    @classmethod
    def load(cls, path: str, options: Options, dimension: int, dead: set[int]) -> Graph:
        """Reads a file that :meth:`save` wrote. hnswlib crashes on any other: check it first."""
        index = hnswlib.Index("ip", dimension)
        with huge_pages():
            index.load_index(path)
        graph = cls(index, options, dimension)
        graph.dead = dead
        graph.labels = {label & ID_MASK: label for label in map(int, index.get_ids_list()) if label not in dead}
        return graph

    def save(self, path: str) -> None:
        """Writes hnswlib's own format, in place."""
        self.index.save_index(path)

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Adds unit vectors, one thread (the same order gives the same graph); known ids are replaced."""
        new = checked(ids, len(vectors)).tolist()
        self._all = None
        self._grow(len(new))
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            labels = [self._next_label(key) for key in block]
            self.index.add_items(vectors[start : start + BLOCK], np.array(labels), num_threads=1)
            self.delete([key for key in block if key in self.labels])
            self.labels.update(zip(block, labels, strict=True))

    def _next_label(self, key: int) -> int:
        label = self.labels.get(key, key)
        while label in self.dead or self.labels.get(key) == label:
            label += 1 << ID_BITS
        return label

    def _grow(self, more: int) -> None:
        needed = self.index.element_count + more
        if needed > self.index.max_elements:
            self.index.resize_index(max(needed, 2 * self.index.max_elements))

    def delete(self, ids: Sequence[int]) -> None:
        """Marks ids deleted; unknown ones are passed over."""
        self._all = None
        for key in map(int, ids):
            label = self.labels.pop(key, None)
            if label is not None:
                self.index.mark_deleted(label)
                self.dead.add(label)

    def is_wasteful(self) -> bool:
        """Whether more than a fifth of the nodes are deleted."""
        return 5 * len(self.dead) > int(self.index.element_count)

    def compacted(self) -> Graph:
        """A new graph of the live vectors only, in the order of their ids."""
        ids, vectors = self.vectors(sorted(self.labels))
        fresh = Graph.empty(self.options, self.dimension, len(ids))
        fresh.add([int(key) for key in ids], vectors)
        return fresh

    def vectors(self, ids: Sequence[int]) -> tuple[npt.NDArray[np.int64], Vectors]:
        """The ids as an array and their vectors, float32 (n, dimension)."""
        keys = np.array(ids, dtype=np.int64)
        if not len(keys):
            return keys, np.zeros((0, self.dimension), np.float32)
        found = self.index.get_items(np.array([self.labels[key] for key in ids]))
        return keys, np.asarray(found, dtype=np.float32)

    def search(self, query: Vectors, k: int, among: Iterable[int] | None = None) -> list[Hit]:
        """Up to k (id, similarity) for a unit vector, best first; of the ascending ids ``among`` if given."""
        allowed = None if among is None else [key for key in map(int, among) if key in self.labels]
        left = len(self.labels) if allowed is None else len(allowed)
        k = min(k, left)
        if k < 1:
            return []
        if left <= self.options.exact_below:
            return self._exact(query, k, allowed)
        return self._approximate(query, k, allowed) or self._exact(query, k, allowed)

    def _approximate(self, query: Vectors, k: int, allowed: list[int] | None) -> list[Hit]:
        """The graph's answer; empty when it does not reach k vectors."""
        inside = None if allowed is None else {self.labels[key] for key in allowed}.__contains__
        try:
            labels, distances = self.index.knn_query(query, k=k, num_threads=1, filter=inside)
        except RuntimeError:  # "Cannot return the results in a contiguous 2D array": it found fewer
            return []
        pairs = zip(labels.tolist()[0], distances.tolist()[0], strict=True)
        return best([(label & ID_MASK, 1 - distance) for label, distance in pairs], k)

    def _exact(self, query: Vectors, k: int, allowed: list[int] | None) -> list[Hit]:
        if allowed is None and len(self.labels) <= self.options.exact_below:
            if self._all is None:
                self._all = self.vectors(sorted(self.labels))
            ids, vectors = self._all
            return ranked(ids, similarities(vectors, query), k)
        keys = sorted(self.labels) if allowed is None else allowed
        hits: list[Hit] = []
        for start in range(0, len(keys), 8 * BLOCK):
            ids, vectors = self.vectors(keys[start : start + 8 * BLOCK])
            hits += ranked(ids, similarities(vectors, query), k)
        return best(hits, k)
