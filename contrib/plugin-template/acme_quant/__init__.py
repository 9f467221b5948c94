"""Light: declares what there is, imports nothing heavy."""

from attrs import field, frozen, validators

from inhouse import QuantizerSpec, hookimpl


@frozen
class Options:
    bits: int = field(default=4, validator=validators.in_(range(2, 9)), metadata={"help": "bits per weight"})


@hookimpl
def inhouse_quantizers():
    yield QuantizerSpec(
        name="acme",
        summary="Rounds every weight to 2^bits levels a row; stays a 16-bit model, to see what a width costs",
        options=Options,
        factory="acme_quant.quantizer:AcmeQuantizer",
        consumes="model/hf",
        produces="model/hf",
    )
