"""How fast an engine decodes: one stream, and many at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from attrs import frozen

from inhouse.protocols import Engine
from inhouse.values import Request

TOKENS = 24
MANY = 8
"""Streams of the second figure, or what the engine decodes together if that is less."""
_RUNS = 3
ENOUGH = 2.0
"""Seconds after which a slow engine is not run again for the median."""
_PROMPT = "Count upwards, one number after the other: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"  # models go on with it


@frozen
class Speed:
    """Tokens per second of wall time, the short prompt included; None when the model said nothing."""

    single: float | None
    batched: float | None
    batch: int


def measure_speed(engine: Engine) -> Speed:
    """Greedy decoding of up to 24 tokens on an engine that is warm: one stream, then many.

    The rate of one stream is the median of three runs, or of the fewer that took two seconds.
    """
    batch = min(MANY, engine.batch)
    single = [Request(prompt=_PROMPT, max_tokens=TOKENS)]
    many = [Request(prompt=f"List {n}. {_PROMPT}", max_tokens=TOKENS) for n in range(batch)]
    rates: list[float] = []
    begun = time.perf_counter()
    while len(rates) < _RUNS and not (rates and time.perf_counter() - begun > ENOUGH):
        rates.append(_rate(engine, single))
    return Speed(_positive(median(rates)), _positive(_rate(engine, many)), batch)


def _rate(engine: Engine, requests: Sequence[Request]) -> float:
    begun = time.perf_counter()
    completions = engine.generate(requests)
    seconds = time.perf_counter() - begun
    return sum(completion.completion_tokens for completion in completions) / max(seconds, 1e-9)


def _positive(rate: float) -> float | None:
    return rate if rate > 0 else None
