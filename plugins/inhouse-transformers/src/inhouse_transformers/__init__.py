"""The runtime `transformers`: models as safetensors, and bitsandbytes models, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen, validators

from inhouse import RuntimeSpec, hookimpl


@frozen
class Options:
    """Options of the runtime `transformers`."""

    max_batch: int = field(
        default=96,
        validator=validators.ge(1),
        metadata={"help": "how many sequences are decoded together", "counts": False},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "what is computed in; auto: the fastest that this machine measures"}
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata={"help": "where it runs; auto: the GPU when there is one"}
    )


@hookimpl
def inhouse_runtimes() -> Iterator[RuntimeSpec]:
    """Declares the runtime."""
    yield RuntimeSpec(
        name="transformers",
        summary="safetensors and bitsandbytes models through transformers",
        factory="inhouse_transformers.engine:TransformersRuntime",
        options=Options,
        consumes=("model/hf", "model/bnb"),
        features=frozenset({"logprobs", "distributions", "stream", "tools"}),
    )
