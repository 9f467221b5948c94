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
    ids = engine.tokenize(text or _TEXT)
    prefill = None
    if "logprobs" in engine.features:
        started = time.perf_counter()
        engine.logprobs([(ids * (engine.context // len(ids) + 1))[: engine.context]])
        prefill = engine.context / (time.perf_counter() - started)
    speed = measure_speed(engine).single or 0.0
    return Load(engine.memory(), speed, prefill)


def settings_of(engine: Engine) -> str:
    """Which settings an engine runs with and why, where they are not its usual ones; else ''."""
    return str(getattr(engine, "told", ""))
