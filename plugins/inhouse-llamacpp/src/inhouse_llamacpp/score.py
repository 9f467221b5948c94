"""Log-probabilities of given tokens, and whole distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inhouse_llamacpp.cache import common_prefix
from inhouse_llamacpp.native import OUTPUTS, Context, Row


def log_softmax_at(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """log softmax(logits)[i, tokens[i]] in float32, for logits of shape (n, tokens); shape (n,)."""
    highest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(axis=1))
    chosen: NDArray[np.float32] = logits[np.arange(len(tokens)), tokens] - highest[:, 0] - total
    return chosen


def score(
    context: Context, sequence: int, sequences: Sequence[Sequence[int]], tick: Callable[[], None]
) -> list[list[float]]:
    """Natural log-probability of ids[i] given ids[:i], i = 1 … n-1, for each of ``sequences``.

    Uses the cache's sequence number ``sequence``, and leaves it empty. The beginning that a sequence has in common
    with the one before it is not computed again. ``tick`` is called after every decode.
    """
    results: list[list[float]] = []
    before: Sequence[int] = ()
    for ids in sequences:
        # the last common token is decoded again: what follows it differs
        known = max(0, common_prefix(before, ids) - 1)
        context.truncate(sequence, known)
        values = results[-1][:known] if known else []
        for start, logits in _pieces(context, sequence, ids, known):
            tick()
            following = np.array(ids[start + 1 : start + 1 + len(logits)])
            values.extend(float(each) for each in log_softmax_at(logits, following))
        before = ids
        results.append(values)
    context.truncate(sequence, 0)
    return results


def write_distribution(
    context: Context, sequence: int, ids: Sequence[int], path: str, tick: Callable[[], None]
) -> None:
    """Writes the logits after ids[:i], i = 1 … n-1, to ``path``: float32, row by row."""
    context.truncate(sequence, 0)
    with Path(path).open("wb") as file:
        for _, logits in _pieces(context, sequence, ids, 0):
            logits.tofile(file)
            tick()
    context.truncate(sequence, 0)


def _pieces(
    context: Context, sequence: int, ids: Sequence[int], known: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first place, logits of it and those that follow) of ``ids`` from ``known`` on, without the last."""
    for start in range(known, len(ids) - 1, OUTPUTS):
        chunk = ids[start : min(start + OUTPUTS, len(ids) - 1)]
        yield start, context.decode([Row(token, start + i, sequence, True) for i, token in enumerate(chunk)])
