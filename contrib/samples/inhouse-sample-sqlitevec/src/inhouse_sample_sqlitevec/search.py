"""The exact nearest vectors: sqlite-vec picks candidates, and their similarities decide.

It sums in float32 one by one, so the last digits of its distances differ from a product's, and of equally near vectors
it takes any. So candidates are asked for until the k-th is better than everything that it left out can be.
"""

from __future__ import annotations

import numpy as np

from inhouse_sample_sqlitevec.table import LARGEST_K, Table
from inhouse_vectors.vectors import Hit, Ids, Vectors, ranked

SPARE = 16  # candidates beyond k
GROWTH = 8  # so many times more when they do not settle it


def nearest(table: Table, query: Vectors, k: int, among: Ids | None) -> list[Hit]:
    """Up to k (id, cosine similarity in steps of 1e-6) for a unit vector (dimension,), best first, equal ones by id."""
    if k < 1 or (among is not None and not len(among)):
        return []
    if among is not None and len(among) <= LARGEST_K:
        return _one_by_one(table, query, k, among)
    wanted = k + SPARE
    while wanted < LARGEST_K:
        ids, vectors = table.nearest(query, wanted, among)
        scores = vectors @ query
        hits = ranked(ids, scores, k)
        if len(ids) < wanted or hits[-1][1] > scores.min() + margin(table.dimension):
            return hits
        wanted *= GROWTH
    return _one_by_one(table, query, k, among)


def margin(dimension: int) -> float:
    """By how much a vector that sqlite-vec left out can be better than the worst candidate.

    A float32 sum of n terms is off by n * 2^-24 of their size. Half of a squared distance, which is at most 4, is what
    the similarity lacks to 1, and the similarity's own terms add up to 1 at most: so much for each of the two, and the
    steps of 1e-6.
    """
    return 6 * (dimension + 8) * 2.0**-24 + 2e-6


def _one_by_one(table: Table, query: Vectors, k: int, among: Ids | None) -> list[Hit]:
    """Every allowed vector compared."""
    best: list[Hit] = []
    for ids, vectors in table.blocks(among):
        best = sorted(best + ranked(ids, vectors @ query, k), key=lambda hit: (-hit[1], hit[0]))[:k]
    return best


def allowed(among: object) -> Ids | None:
    """The ids that may be found as an array of int64, as SQLite's carray reads it."""
    return None if among is None else np.ascontiguousarray(among, dtype=np.int64)
