"""Quantizers ``gguf``, a Hugging Face model folder as one GGUF file of any llama.cpp type, and ``gguf-adapter``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attrs import field, frozen, make_class, validators

from inhouse import Input, QuantizerSpec, RoundingSpec, hookimpl

PLAIN_TYPES = ("f32", "f16", "bf16")
"""Types that are only converted, not quantised."""

MATRIX_TYPES = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s")
"""Types that llama.cpp refuses to write without an importance matrix."""

IGNORING_TYPES = ("q8_0", "tq2_0", "tq1_0", "mxfp4_moe", "q1_0")
"""Types whose rounding does not look at an importance matrix."""

TYPES = (
    *PLAIN_TYPES,
    "q8_0",
    "q6_k",
    *("q5_k_m", "q5_k_s", "q5_1", "q5_0"),
    *("q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs"),
    *("q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s"),
    *("q2_k", "tq2_0", "tq1_0", "mxfp4_moe", "q1_0"),
    *MATRIX_TYPES,
)
"""The names of ``enum llama_ftype`` in llama.cpp's ``llama.h``, lower case, from large to small.

Left out: ``q2_0`` and ``nvfp4``, which the official ``gguf`` package cannot read back or llama.cpp not write."""


AUTO = "auto"
"""Instead of a type: the ladder of types is measured, and the best that holds to the recipe's target taken."""


@frozen
class GgufOptions:
    """What the recipe's ``[quantize.gguf]`` may say."""

    type: str = field(
        default="q4_k_m",
        validator=validators.in_((AUTO, *TYPES)),
        metadata={
            "help": f"llama.cpp type: {', '.join(TYPES)}; or auto: the best that fits [target], measured",
            "names": "rounding",
        },
    )
    threads: int = field(
        default=0,
        validator=validators.ge(0),
        metadata={"help": "threads while quantising; 0 = all cores", "counts": False},
    )
    converter: Path | None = field(
        default=None,
        metadata={"help": "llama.cpp's convert_hf_to_gguf.py, to convert architectures that are not known here"},
    )
    adapter: Path | None = field(
        default=None,
        metadata={"help": "folder of a LoRA adapter of peft, merged into the model while it is converted"},
    )
    imatrix: Literal["auto", "on", "off"] = field(
        default="auto",
        validator=validators.in_(("auto", "on", "off")),
        metadata={
            "help": "importance matrix, computed over the training text; auto: where there is text, the type gains by "
            "it, and the model was not trained for the type as it is without one"
        },
    )
    imatrix_tokens: int = field(
        default=16384,
        validator=validators.ge(1),
        metadata={"help": "tokens of training text that the importance matrix is computed over"},
    )
    imatrix_file: Path | None = field(
        default=None,
        metadata={"help": "an importance matrix to take instead: GGUF, of llama-imatrix or of an earlier run"},
    )

    def __attrs_post_init__(self) -> None:
        """Raises ``ValueError`` for options that exclude each other."""
        if self.imatrix_file and self.imatrix == "off":
            raise ValueError("'imatrix' is off, and imatrix_file names one")
        if self.adapter and self.type == AUTO:
            raise ValueError("'adapter' needs a type: auto compares with the model's folder, where it is not merged")
        if self.type in PLAIN_TYPES and (self.imatrix_file or self.imatrix == "on"):
            raise ValueError(f"'imatrix' has no use: {self.type} is not quantised")


@frozen
class AdapterOptions:
    """What the recipe's ``[steps.NAME.gguf-adapter]`` may say."""

    type: str = field(
        default="f16",
        validator=validators.in_(("f32", "f16")),
        metadata={"help": "format of the adapter's matrices: f32 or f16"},
    )


@hookimpl
def inhouse_quantizers() -> Iterator[QuantizerSpec]:
    """The quantizers of this distribution."""
    yield QuantizerSpec(
        name="gguf",
        summary="GGUF for llama.cpp, Ollama and others: 16-bit, Q8_0, K-quants, Q4_0 …",
        factory="inhouse_gguf.quantizer:GgufQuantizer",
        options=GgufOptions,
        consumes=(
            "model/hf",
            Input("text/chat", optional=True),
            Input("text/corpus", optional=True),
            Input("model/hf", take="first"),
        ),
        produces="model/gguf",
        version=2,
        target=True,
    )
    yield QuantizerSpec(
        name="gguf-adapter",
        summary="a LoRA adapter of peft as a GGUF adapter, which llama.cpp puts on the base's GGUF",
        factory="inhouse_gguf.quantizer:GgufAdapterQuantizer",
        options=AdapterOptions,
        consumes=("adapter/peft", Input("model/hf", take="first")),
        produces="adapter/gguf",
    )


@hookimpl
def inhouse_roundings() -> Iterator[RoundingSpec]:
    """What each type that needs no importance matrix does to weights."""
    for name in TYPES:
        if name not in (*PLAIN_TYPES, *MATRIX_TYPES):
            yield RoundingSpec(
                name=name,
                summary=f"weights as llama.cpp stores them in {name}",
                factory="inhouse_gguf.rounding:GgufRounding",
                options=make_class("RoundingOptions", {"type": field(default=name, validator=validators.in_([name]))}),
            )
