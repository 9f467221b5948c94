"""The quantizer `bitsandbytes`: NF4, FP4 and int8, for the runtime `transformers`, on a CPU too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen, make_class, validators

from inhouse import QuantizerSpec, RoundingSpec, hookimpl


@frozen
class Options:
    """Options of the quantizer `bitsandbytes`."""

    type: Literal["nf4", "fp4", "int8"] = field(
        default="nf4",
        metadata={
            "help": "nf4: 4 bits spaced as a normal distribution; fp4: 4-bit floats; int8",
            "names": "rounding",
        },
    )
    double_quant: bool = field(
        default=True, metadata={"help": "4-bit types: the scales are quantised too, 0.4 bits a weight less"}
    )
    compute_dtype: Literal["bfloat16", "float16", "float32"] = field(
        default="bfloat16",
        metadata={"help": "what the file says to compute in; the runtime transformers takes the machine's fastest"},
    )


@hookimpl
def inhouse_quantizers() -> Iterator[QuantizerSpec]:
    """Declares the quantizer."""
    yield QuantizerSpec(
        name="bitsandbytes",
        summary="NF4, FP4 or int8 weights by bitsandbytes; saves memory, not time",
        factory="inhouse_bitsandbytes.quantizer:BitsAndBytesQuantizer",
        options=Options,
        consumes="model/hf",
        produces="model/bnb",
    )


@hookimpl
def inhouse_roundings() -> Iterator[RoundingSpec]:
    """What the 4-bit types do to weights, with scales that are quantised too."""
    for name in ("nf4", "fp4"):
        yield RoundingSpec(
            name=name,
            summary=f"weights as bitsandbytes stores them in {name}",
            factory="inhouse_bitsandbytes.rounding:BitsAndBytesRounding",
            options=make_class("RoundingOptions", {"type": field(default=name, validator=validators.in_([name]))}),
        )
