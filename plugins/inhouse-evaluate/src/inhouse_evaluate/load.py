"""What an engine takes of the machine when its context is full: memory, and how fast it reads and writes."""

from __future__ import annotations

import time

from attrs import frozen

from inhouse.protocols import Engine

from .speed import measure_speed

_TEXT = "One, two, three, four, five, six, seven, eight, nine, ten, and so on.\n"


@frozen
class Load:
    """``memory``: resident bytes; tokens per second of one stream, and of reading (None: it cannot be asked to)."""

    memory: int
    tokens_per_second: float
    prefill_tokens_per_second: float | None


def measure_load(engine: Engine, text: str = "") -> Load:
    """Fills the context with ``text``, over and over, then decodes; 0.0 tokens per second when nothing was said."""
    prefill = fill(engine, text)
    speed = measure_speed(engine).single or 0.0
    return Load(engine.memory(), speed, prefill)


def fill(engine: Engine, text: str = "") -> float | None:
    """Fills the context with ``text``, over and over; tokens per second of reading (None: it cannot be asked to)."""
    if "logprobs" not in engine.features:
        return None
    ids = engine.tokenize(text or _TEXT)
    started = time.perf_counter()
    engine.logprobs([(ids * (engine.context // len(ids) + 1))[: engine.context]])
    return engine.context / (time.perf_counter() - started)


def settings_of(engine: Engine) -> str:
    """Which settings an engine runs with and why, where they are not its usual ones; else ''."""
    return str(getattr(engine, "told", ""))
