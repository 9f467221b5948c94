"""What vector stores share: unit vectors, ids that are checked, and the order of what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, inf, sqrt

import numpy as np
import numpy.typing as npt

from inhouse.errors import DataError
from inhouse.protocols import Matrix

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Hit = tuple[int, float]
"""An id, and its cosine similarity in steps of 1e-6."""

LARGEST_ID = (1 << 48) - 1
STEPS = 10**6  # of a similarity, from 0 to 1: float32 sums differ by less, and equal vectors must count as equal
UNIT = 2e-7  # how far a squared length may be from 1 to be that of a unit vector in float32


def unit(vectors: Matrix, dimension: int) -> Vectors:
    """float32 (n, dimension) of length 1; a zero vector stays zero and is similar to nothing.

    Raises ``ValueError`` for another shape and ``DataError`` for NaN or infinity.
    """
    rows = np.array(vectors, dtype=np.float32, order="C", ndmin=2)
    if rows.size == 0:
        return rows.reshape(0, dimension)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise ValueError(f"vectors of shape {rows.shape} do not fit dimension {dimension}")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise DataError(
            f"vector {int(bad[0])} of {len(rows)} holds NaN or infinity",
            hint="check the embedder: its model gives numbers that are none",
        )
    # Scaling by the largest entry first keeps the squares of huge and of tiny vectors in range.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(length > 0, length, 1)
    return rows


def checked(ids: Sequence[int], count: int) -> Ids:
    """The ids as int64 (count,). Raises ``ValueError`` unless they are ``count`` different ones in [1, 2^48)."""
    try:
        keys = np.asarray(ids, np.int64)
    except OverflowError:
        raise ValueError("ids have to lie between 1 and 2^48 - 1") from None
    if len(keys) != count:
        raise ValueError(f"{len(keys)} ids for {count} vectors")
    if len(np.unique(keys)) != len(keys):
        raise ValueError("the same id twice in one call")
    if len(keys) and not (keys.min() >= 1 and keys.max() <= LARGEST_ID):
        raise ValueError("ids have to lie between 1 and 2^48 - 1")
    return keys


def one(vector: Matrix, dimension: int) -> Vectors:
    """The unit vector of a query, float32 (dimension,). Raises as :func:`unit` does."""
    row: Vectors = np.asarray(vector, np.float32)
    if row.shape == (dimension,):  # in few steps: between two searches of a graph nothing is left in the cache
        wide = row.astype(np.float64)  # holds the square of every float32
        square = float(wide.dot(wide))
        if abs(square - 1) < UNIT:
            return row
        if 0 < square < inf:
            return (wide * (1 / sqrt(square))).astype(np.float32)
    rows = unit(vector, dimension)
    if len(rows) != 1:
        raise ValueError(f"one vector at a time, not {len(rows)}")
    row = rows[0]
    return row


def similarities(vectors: Vectors, query: Vectors) -> Vectors:
    """float32 (n,): the product of each row of ``vectors`` with ``query``.

    Row by row, in this thread: the threads of a BLAS wait busily after a product and take the cores from the
    embedder's, which costs a search up to 100 ms on two cores.
    """
    found: Vectors = np.vecdot(vectors, query)
    return found


def ranked(ids: Ids, scores: Vectors, k: int) -> list[Hit]:
    """The best k of (id, similarity), best first, equal ones by id; ``ids`` int64 (n,), ``scores`` float32 (n,)."""
    if k < 1:
        return []
    if k < len(scores):  # the k-th best and all that may equal it, so that ties do not depend on the partition
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least - 2 / STEPS)
        ids, scores = ids[kept], scores[kept]
    return best(zip(ids.tolist(), scores.tolist(), strict=True), k)


def best(found: Iterable[Hit], k: int) -> list[Hit]:
    """As :func:`ranked`, of (id, similarity) that are not rounded yet, without numpy: for few."""
    hits = sorted([(-floor(score * STEPS + 0.5), key) for key, score in found])
    return [(key, -steps / STEPS) for steps, key in hits[:k]]
