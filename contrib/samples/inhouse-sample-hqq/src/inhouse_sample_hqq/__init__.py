"""Quantizer and runtime ``hqq``: half-quadratic quantization, as it would come from a package index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen, validators

from inhouse import QuantizerSpec, RuntimeSpec, hookimpl

BITS = (8, 4, 3, 2)
GROUP_SIZES = (16, 32, 64, 128, 256)


@frozen
class QuantizerOptions:
    """What ``[quantize.hqq]`` may say."""

    bits: int = field(default=4, validator=validators.in_(BITS), metadata={"help": "bits of a weight: 8, 4, 3 or 2"})
    group_size: int = field(
        default=64,
        validator=validators.in_(GROUP_SIZES),
        metadata={"help": "weights that share a scale and an offset, 32 bits a group: 16, 32, 64, 128 or 256"},
    )


@frozen
class RuntimeOptions:
    """What ``[runtime.hqq]`` may say."""

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
def inhouse_quantizers() -> Iterator[QuantizerSpec]:
    """Declares the quantizer."""
    yield QuantizerSpec(
        name="hqq",
        summary="8- to 2-bit weights by half-quadratic quantization, without calibration data",
        factory="inhouse_sample_hqq.quantizer:HqqQuantizer",
        options=QuantizerOptions,
        consumes="model/hf",
        produces="model/hqq",
    )


@hookimpl
def inhouse_runtimes() -> Iterator[RuntimeSpec]:
    """Declares the runtime, the only one that opens ``model/hqq``."""
    yield RuntimeSpec(
        name="hqq",
        summary="models that the quantizer hqq wrote, unpacked layer by layer as they are used",
        factory="inhouse_sample_hqq.runtime:HqqRuntime",
        options=RuntimeOptions,
        consumes="model/hqq",
        features=frozenset({"logprobs", "distributions", "stream"}),
    )
