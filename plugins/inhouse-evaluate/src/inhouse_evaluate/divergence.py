"""How far a model's distributions are from another's: the Kullback-Leibler divergence at each marked token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from inhouse.errors import EngineError
from inhouse.protocols import Engine
from inhouse.values import Message

from .loss import label_spans


@frozen
class Marked:
    """Token ids, and half-open spans of those tokens at whose place the distributions are compared."""

    ids: list[int]
    spans: list[tuple[int, int]]

    @property
    def places(self) -> list[int]:
        """Rows of an engine's distributions: row i - 1 is what is expected at ids[i]."""
        return [place - 1 for start, end in self.spans for place in range(start, end)]


@frozen
class Divergence:
    """``nats``: mean KL(reference || model) of a token; ``same_top``: share of places with the same most likely one."""

    nats: float
    same_top: float
    tokens: int


def marked(engine: Engine, dialogues: Sequence[Sequence[Message]], wanted: int) -> list[Marked]:
    """Dialogues that fit the engine's context, with the assistant's turns marked, until ``wanted`` tokens are."""
    found: list[Marked] = []
    for dialogue in dialogues:
        if sum(len(each.places) for each in found) >= wanted:
            break
        ids, spans = label_spans(engine, dialogue)
        if spans and len(ids) <= engine.context:
            found.append(Marked(ids, spans))
    return found


def write_reference(engine: Engine, texts: Sequence[Marked], path: Path) -> None:
    """Writes what ``engine`` expects at the marked places to ``path``: natural logarithms, float32, row by row."""
    with path.open("wb") as file:
        for expected in _expected(engine, texts):
            expected.tofile(file)


def divergence(engine: Engine, texts: Sequence[Marked], reference: Path) -> Divergence:
    """From the reference in ``reference``, which is about the same ``texts``, to ``engine``.

    A wider vocabulary (padded to a multiple) is cut to the narrower one. Raises ``EngineError`` where an engine's
    logits are no numbers.
    """
    count = sum(len(text.places) for text in texts)
    known = np.memmap(reference, np.float32, "r").reshape(count, -1)
    total, same, row = 0.0, 0, 0
    for found in _expected(engine, texts):
        wanted = np.asarray(known[row : row + len(found)])
        total += float(kl(wanted, found).sum())
        same += int((wanted.argmax(1) == found[:, : wanted.shape[1]].argmax(1)).sum())
        row += len(found)
    return Divergence(total / count, same / count, count)


def kl(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(wanted || found) in nats of each row of logits, (rows, vocabulary); of two widths the narrower counts."""
    width = min(found.shape[1], wanted.shape[1])
    p, q = _normal(wanted[:, :width]), _normal(found[:, :width])
    made: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(1, dtype=np.float64)
    return made


def _expected(engine: Engine, texts: Sequence[Marked]) -> Iterator[NDArray[np.float32]]:
    """For each text the logarithms of probabilities at its places, (places, vocabulary)."""
    for text, logits in zip(texts, engine.distributions([text.ids for text in texts]), strict=True):
        if not np.isfinite(logits.max()):
            raise EngineError("the model's logits are no numbers")
        yield _normal(logits[text.places])


def _normal(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """log softmax over the last side."""
    shifted = logits - logits.max(1, keepdims=True)
    made: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return made
