"""Vectors as embedded texts lie: on the sphere, around many subjects of unequal size; and what is nearest in truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

DIMENSION = 384
SUBJECTS = 1000
WITHIN = 0.6
"""How far the members of a subject lie from its middle, as a share of how far the middles lie from 0."""

DECAY = 0.35
"""The spread falls from one direction to the next as ``1 / n ** DECAY``: of 384, about a hundred count, as in the
vectors of all-MiniLM-L6-v2."""

BLOCK = 20_000


def mixture(count: int, *, seed: int, subjects: int = SUBJECTS, dimension: int = DIMENSION) -> Vectors:
    """``count`` unit vectors of a Gaussian mixture, float32 (count, dimension).

    The subjects are the same for every ``seed``: queries are drawn with another one. Their sizes follow Zipf's law.
    """
    spread = (np.arange(1, dimension + 1) ** -DECAY).astype(np.float32)
    middles = np.random.default_rng(99).standard_normal((subjects, dimension), dtype=np.float32) * spread
    shares = 1 / np.arange(10, subjects + 10)
    drawn = np.random.default_rng(seed)
    found = np.empty((count, dimension), np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        chosen = drawn.choice(subjects, size, p=shares / shares.sum())
        rows = middles[chosen] + WITHIN * spread * drawn.standard_normal((size, dimension), dtype=np.float32)
        found[start : start + size] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def nearest(vectors: Vectors, queries: Vectors, k: int) -> Ids:
    """The ids, counted from 1, of the ``k`` most similar vectors of each query, best first; (queries, k)."""
    best = np.empty((len(queries), 0), np.float32)
    ids = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), BLOCK):
        scores = queries @ vectors[start : start + BLOCK].T
        best = np.concatenate([best, scores], axis=1)
        block = np.arange(start + 1, start + scores.shape[1] + 1)
        ids = np.concatenate([ids, np.broadcast_to(block, scores.shape)], axis=1)
        if best.shape[1] > k:
            kept = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, ids = np.take_along_axis(best, kept, axis=1), np.take_along_axis(ids, kept, axis=1)
    return np.take_along_axis(ids, np.argsort(-best, axis=1, kind="stable"), axis=1)


def nearest_among(vectors: Vectors, query: Vectors, k: int, among: Ids) -> list[int]:
    """Of the ids ``among``, counted from 1, the ``k`` most similar to one query."""
    scores = vectors[among - 1] @ query
    return [int(among[at]) for at in np.argsort(-scores, kind="stable")[:k]]


def recall(found: Sequence[Sequence[int]], truth: Sequence[Sequence[int]] | Ids) -> float:
    """The share of the true ids that were found."""
    hits = sum(len(set(map(int, one)) & set(map(int, other))) for one, other in zip(found, truth, strict=True))
    return hits / sum(len(each) for each in truth)
