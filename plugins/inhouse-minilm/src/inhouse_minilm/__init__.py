"""Declares the embedder ``minilm``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attrs import field, frozen, validators

from inhouse import EmbedderSpec, hookimpl


@frozen
class Options:
    """Which encoder, and how it runs."""

    model: Path | None = field(
        default=None,
        metadata={"help": "folder of another BERT-like encoder (safetensors); else all-MiniLM-L6-v2"},
    )
    cross_encoder: Path | None = field(
        default=None,
        metadata={"help": "folder of a cross-encoder, a BERT with one output, that orders the best passages anew"},
    )
    batch_size: int = field(
        default=32,
        validator=[validators.ge(1), validators.le(4096)],
        metadata={"help": "texts that are worked on at a time", "counts": False},
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={"help": "number format of products; auto = bfloat16 where the processor multiplies it by itself"},
    )
    threads: int = field(
        default=0,
        validator=validators.ge(0),
        metadata={"help": "threads; 0 leaves it to torch", "counts": False},
    )


@hookimpl
def inhouse_embedders() -> Iterator[EmbedderSpec]:
    """The one embedder of this distribution."""
    yield EmbedderSpec(
        name="minilm",
        summary="all-MiniLM-L6-v2 (384 dimensions, English), on the CPU, no network",
        factory="inhouse_minilm.embedder:MiniLM",
        options=Options,
        version=3,
    )
