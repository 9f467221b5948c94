"""Held-out loss: the mean negative log-likelihood of what the assistant says."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from inhouse.protocols import Engine
from inhouse.values import Message

_TOGETHER = 32  # sequences in one call of the engine


@frozen
class Loss:
    """``nats`` per label token, over ``tokens`` label tokens of ``dialogues``; ``skipped`` did not fit."""

    nats: float
    tokens: int
    dialogues: int
    skipped: int


def heldout_loss(engine: Engine, dialogues: Sequence[Sequence[Message]]) -> Loss | None:
    """Mean over all assistant tokens, end-of-turn tokens included, in nats; None when there are none."""
    labelled = [label_spans(engine, dialogue) for dialogue in dialogues]
    fitting = [(ids, spans) for ids, spans in labelled if spans and len(ids) <= engine.context]
    total, tokens = 0.0, 0
    for first in range(0, len(fitting), _TOGETHER):
        group = fitting[first : first + _TOGETHER]
        for (_, spans), values in zip(group, engine.logprobs([ids for ids, _ in group]), strict=True):
            for start, end in spans:
                total -= sum(values[start - 1 : end - 1])  # values[i - 1] belongs to ids[i]
                tokens += end - start
    if not tokens:
        return None
    return Loss(total / tokens, tokens, len(fitting), len(dialogues) - len(fitting))


def label_spans(engine: Engine, dialogue: Sequence[Message]) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of the rendered dialogue, and the half-open spans of the assistant's turns in them.

    A span begins after the role header and ends after the end-of-turn token; white space that the
    template puts behind that token is no label.
    """
    ids = engine.tokenize(engine.render(dialogue, add_generation_prompt=False))
    spans = []
    for position, message in enumerate(dialogue):
        if message.role != "assistant":
            continue
        header = engine.render(dialogue[:position], add_generation_prompt=True)
        turn = engine.render(dialogue[: position + 1], add_generation_prompt=False)
        start = _shared(ids, engine.tokenize(header))
        end = _shared(ids, engine.tokenize(turn.rstrip()))
        if 0 < start < end:
            spans.append((start, end))
    return ids, spans


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
