"""What a model expects at every place of given texts, against a reference: divergence, and what the text had there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from inhouse.protocols import Engine
from inhouse_evaluate.divergence import Marked, kl, write_reference
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.runtime import LlamaCppRuntime

ROWS = 256
"""Places that are compared at once, so that few arrays of the vocabulary's width are held."""


@frozen
class Spread:
    """Of the places 1 … n-1 of one text: KL(reference || model) in nats, whether the most likely token is the same,
    and the natural log-probability of the token that stands there.
    """

    nats: NDArray[np.float64]
    same: NDArray[np.bool_]
    logprobs: NDArray[np.float64]


def opened(folder: Path, context: int) -> Engine:
    """``folder``/model.gguf in llama.cpp, on all cores."""
    return LlamaCppRuntime(LlamaCppOptions()).open(folder, context=context)


def write_every(engine: Engine, texts: Sequence[Sequence[int]], path: Path) -> None:
    """Writes what ``engine`` expects at every place of ``texts`` (token ids) as the reference."""
    write_reference(engine, [Marked(list(ids), [(1, len(ids))]) for ids in texts], path)


def spreads(engine: Engine, texts: Sequence[Sequence[int]], reference: Path) -> Iterator[Spread]:
    """Of each text, against ``reference`` of the same texts."""
    count = sum(len(ids) - 1 for ids in texts)
    known = np.memmap(reference, np.float32, "r").reshape(count, -1)
    row = 0
    for ids, logits in zip(texts, engine.distributions(texts), strict=True):
        parts = [_part(known[row + first :], logits, ids, first) for first in range(0, len(logits), ROWS)]
        row += len(logits)
        yield Spread(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _part(known: Any, logits: Any, ids: Sequence[int], first: int) -> tuple[Any, Any, Any]:
    found = np.asarray(logits[first : first + ROWS])
    wanted = np.asarray(known[: len(found)])
    following = np.asarray(ids[first + 1 : first + 1 + len(found)])
    highest = found.max(1, keepdims=True)
    total = np.log(np.exp(found - highest).sum(1, dtype=np.float64))
    logprobs = found[np.arange(len(found)), following] - highest[:, 0] - total
    return kl(wanted, found), wanted.argmax(1) == found[:, : wanted.shape[1]].argmax(1), logprobs


def perplexity(found: Sequence[Spread]) -> float:
    """exp of the mean negative log-probability of all tokens but the first of each text."""
    return float(np.exp(-np.concatenate([each.logprobs for each in found]).mean()))


def nats(found: Sequence[Spread]) -> float:
    """The mean divergence of all places."""
    return float(np.concatenate([each.nats for each in found]).mean())


def same_top(found: Sequence[Spread]) -> float:
    """The share of places with the same most likely token."""
    return float(np.concatenate([each.same for each in found]).mean())
