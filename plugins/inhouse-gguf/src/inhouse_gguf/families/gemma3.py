"""Gemma 3, text only: norms around both halves of a layer, and a sliding window in five layers of six."""

from __future__ import annotations

from typing import Any

from gguf import MODEL_ARCH, GGUFWriter

from inhouse.errors import DataError
from inhouse_gguf.families.family import Family
from inhouse_gguf.families.settings import expect, head_dimension, heads, rope, rope_scaling, sizes, where
from inhouse_gguf.source import Source

FULL_EVERY = 6
"""Each sixth layer attends to everything; a default of llama.cpp's ``gemma3`` that its own converter relies on."""

LAYERS_27B = 62
"""llama.cpp tells the 27B model, whose attention is scaled otherwise, by its number of layers."""


def _parameters(writer: GGUFWriter, source: Source) -> None:
    expect(source, "hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    expect(source, "attention_bias", (False,), False)
    expect(source, "use_bidirectional_attention", (False, None), False)
    expect(source, "attn_logit_softcapping", (None,))
    expect(source, "final_logit_softcapping", (None,))
    expect(source, "query_pre_attn_scalar", (_scalar(source),), 256)
    _check_windows(source)
    sizes(writer, source)
    writer.add_sliding_window(source.need("sliding_window"))
    full, near = rope(source, 1e6), _near(source)
    if near.get("rope_type", "default") != "default":
        raise DataError("rope scaling of the layers with a window cannot be converted", where=where(source))
    writer.add_rope_freq_base(float(full["rope_theta"]))
    writer.add_rope_freq_base_swa(float(near["rope_theta"]))
    rope_scaling(writer, source, full, ("default", "linear"))


def _near(source: Source) -> dict[str, Any]:
    """The rope settings of the layers with a window, of either spelling."""
    told = (source.config.get("rope_parameters") or {}).get("sliding_attention") or {}
    theta = told.get("rope_theta") or source.config.get("rope_local_base_freq") or 10000.0
    return {**told, "rope_theta": theta}


def _scalar(source: Source) -> int:
    """llama.cpp divides by the root of this (``f_attention_scale``)."""
    if source.need("num_hidden_layers") == LAYERS_27B:
        return int(source.need("hidden_size")) // heads(source)[0]
    return head_dimension(source)


def _check_windows(source: Source) -> None:
    count = source.need("num_hidden_layers")
    every = source.config.get("sliding_window_pattern") or source.config.get("_sliding_window_pattern") or FULL_EVERY
    kinds = ("full_attention", "sliding_attention")
    told = source.config.get("layer_types") or [kinds[bool((i + 1) % every)] for i in range(count)]
    if told != [kinds[bool((i + 1) % FULL_EVERY)] for i in range(count)]:
        raise DataError(
            f"layer_types: llama.cpp has a sliding window in all layers but every {FULL_EVERY}th", where=where(source)
        )


GEMMA3 = Family(MODEL_ARCH.GEMMA3, _parameters, tied=True, norm_shift=1.0)
"""Its norms multiply by 1 + weight, llama.cpp's by the weight."""
