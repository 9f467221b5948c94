"""Llama, and what llama.cpp computes with the same rotation of neighbouring columns: Mistral, SmolLM3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter

from inhouse.errors import DataError
from inhouse_gguf.families.family import Array, Family
from inhouse_gguf.families.settings import decoder_parameters, expect, head_dimension, heads, rope, where, window
from inhouse_gguf.source import Source
from inhouse_gguf.values import Converted

ROPES = ("default", "linear", "yarn", "llama3")

NO_ROPE_EVERY = 4
"""``n_no_rope_layer_step`` of llama.cpp's graph for SmolLM3, which the file cannot change."""


def rope_factors(source: Source) -> Sequence[Converted]:
    """Llama 3's frequency factors, shape (head dimension / 2,): long waves are slowed, short ones kept.

    Between the two bounds the factor is interpolated, as in the Llama 3.1 report and transformers'
    ``_compute_llama3_parameters``.
    """
    settings = rope(source)
    if settings["rope_type"] != "llama3":
        return ()
    size = head_dimension(source)
    frequencies = settings["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    turns = settings["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    scaled = (1 - smooth) / settings["factor"] + smooth
    return (Converted("rope_freqs.weight", (1.0 / scaled).astype(np.float32), "F32", "F32"),)


def interleave_heads(values: Array, count: int) -> Array:
    """Reorders rows of a q or k projection from halves to neighbouring pairs, head by head.

    transformers rotates (i, i + d/2), llama.cpp's ``llama`` graph rotates (2i, 2i + 1).
    """
    size = values.shape[0] // count
    return values.reshape(count, 2, size // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _arrange(source: Source, name: str, values: Array) -> Array:
    queries, keys = heads(source)
    if ".q_proj." in name:
        return interleave_heads(values, queries)
    if ".k_proj." in name:
        return interleave_heads(values, keys)
    return values


def _llama_parameters(writer: GGUFWriter, source: Source) -> None:
    decoder_parameters(writer, source, ropes=ROPES)
    writer.add_rope_dimension_count(head_dimension(source))


def _mistral_parameters(writer: GGUFWriter, source: Source) -> None:
    """A window of 4096 where the configuration does not say: MistralConfig's default."""
    decoder_parameters(writer, source, window(source, default=4096), ROPES)
    writer.add_rope_dimension_count(head_dimension(source))


def _smollm3_parameters(writer: GGUFWriter, source: Source) -> None:
    count = source.need("num_hidden_layers")
    every = source.config.get("no_rope_layer_interval") or NO_ROPE_EVERY
    told = source.config.get("no_rope_layers") or [(i + 1) % every for i in range(count)]
    if [bool(each) for each in told[:count]] != [bool((i + 1) % NO_ROPE_EVERY) for i in range(count)]:
        raise DataError(
            f"no_rope_layers: llama.cpp leaves out positions in every {NO_ROPE_EVERY}th layer and in no other",
            where=where(source),
        )
    expect(source, "attention_bias", (False,), False)
    expect(source, "mlp_bias", (False,), False)
    decoder_parameters(writer, source, window(source, optional=True), theta=2e6)
    writer.add_rope_dimension_count(head_dimension(source))


LLAMA = Family(MODEL_ARCH.LLAMA, _llama_parameters, _arrange, rope_factors)
MISTRAL = Family(MODEL_ARCH.LLAMA, _mistral_parameters, _arrange, rope_factors)
SMOLLM3 = Family(MODEL_ARCH.SMOLLM3, _smollm3_parameters, _arrange, tied=True)
