"""Quantizer ``int8``: a third party's plugin, as it would come from a package index."""

from attrs import field, frozen, validators

from inhouse import QuantizerSpec, hookimpl


@frozen
class Int8Options:
    """What ``[quantize.int8]`` may say."""

    clip: float = field(
        default=1.0,
        validator=[validators.gt(0), validators.le(1)],
        metadata={"help": "share of a row's largest magnitude that is kept exactly; below 1 clips outliers"},
    )


@hookimpl
def inhouse_quantizers():
    yield QuantizerSpec(
        name="int8",
        summary="int8 weights with one scale a row, in safetensors",
        options=Int8Options,
        factory="inhouse_sample_quantizer.quantizer:Int8Quantizer",
        consumes="model/hf",
        produces="model/int8",
    )
