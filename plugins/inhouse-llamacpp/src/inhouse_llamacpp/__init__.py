"""Runtime ``llamacpp``: runs GGUF models with llama.cpp in a child process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen, validators

from inhouse import RuntimeSpec, hookimpl

CacheType = Literal["f16", "q8_0", "q4_0"]
"""Formats of the key/value cache."""


@frozen
class LlamaCppOptions:
    """How the engine is run; none of it but ``cache_type`` changes what a model answers beyond rounding."""

    slots: int = field(
        default=16,  # with more, each step looks through more cells of others than batching saves
        validator=[validators.ge(1), validators.le(128)],
        metadata={"help": "requests decoded together at most", "counts": False},
    )
    cache_memory: int = field(
        default=512 << 20,
        validator=validators.ge(0),
        metadata={
            "help": "bytes of key/value cache that requests decoded together may take; one context always fits",
            "counts": False,
        },
    )
    cache_type: CacheType = field(
        default="f16",
        metadata={
            "help": "format of the key/value cache: q8_0 holds it in about half the memory, q4_0 in about a quarter",
        },
    )
    repack: str = field(
        default="auto",
        validator=validators.in_(("auto", "on", "off")),
        metadata={
            "help": "reorder quantised weights for this CPU: faster, but crashes some builds; auto tries once",
            "counts": False,
        },
    )
    patience: float = field(
        default=300.0,
        validator=validators.gt(0),
        metadata={"help": "seconds without a sign of life after which the engine is given up", "counts": False},
    )


@hookimpl
def inhouse_runtimes() -> Iterator[RuntimeSpec]:
    """The one runtime of this distribution."""
    yield RuntimeSpec(
        name="llamacpp",
        summary="GGUF through llama.cpp: batches, shared prompts, grammars, in a child process",
        factory="inhouse_llamacpp.runtime:LlamaCppRuntime",
        options=LlamaCppOptions,
        consumes="model/gguf",
        features=frozenset({"grammar", "logprobs", "distributions", "stream", "tools"}),
    )
