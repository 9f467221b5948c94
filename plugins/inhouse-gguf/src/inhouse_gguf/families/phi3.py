"""Phi-3 and Phi-4: q, k and v in one matrix, gate and up in one, and longrope.

llama.cpp cuts both matrices as transformers does (``create_tensor_qkv`` and ``LLM_FFN_SWIGLU``: first half gate), so
they stay as they are, and so do adapters of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter

from inhouse.errors import DataError
from inhouse_gguf.families.family import Family
from inhouse_gguf.families.settings import expect, head_dimension, rope, sizes, where, window
from inhouse_gguf.source import Source
from inhouse_gguf.values import Converted

LONG = ("longrope", "su")
"""Names of the scaling with a factor for each frequency; ``su`` is the older one."""


def _parameters(writer: GGUFWriter, source: Source) -> None:
    expect(source, "hidden_act", ("silu", "swish"), "silu")
    sizes(writer, source, window(source))
    settings = rope(source)
    writer.add_rope_dimension_count(_turned(source, settings))
    writer.add_rope_freq_base(float(settings["rope_theta"]))
    writer.add_rope_scaling_orig_ctx_len(_original(source, settings))
    writer.add_sliding_window(window(source) or 0)  # older llama.cpp takes a missing key for a window of 2047
    if settings["rope_type"] in LONG:
        writer.add_rope_scaling_attn_factors(_attention_factor(source, settings))
    elif settings["rope_type"] != "default":
        raise DataError(f"rope scaling {settings['rope_type']!r} cannot be converted here", where=where(source))


def _turned(source: Source, settings: dict[str, Any]) -> int:
    """Columns of a head that are rotated."""
    return int(head_dimension(source) * settings["partial_rotary_factor"])


def _original(source: Source, settings: dict[str, Any]) -> int:
    """The context before it was made longer; 4096 is Phi3Config's default."""
    key = "original_max_position_embeddings"
    return int(source.config.get(key) or settings.get(key) or 4096)


def _attention_factor(source: Source, settings: dict[str, Any]) -> float:
    """What cosines and sines are multiplied by: transformers' ``_compute_longrope_parameters``."""
    if settings.get("attention_factor"):
        return float(settings["attention_factor"])
    original = _original(source, settings)
    factor = settings.get("factor") or source.need("max_position_embeddings") / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _factors(source: Source) -> Sequence[Converted]:
    """Two tensors of rotated columns / 2: for contexts beyond the original one, and up to it."""
    settings = rope(source)
    if settings["rope_type"] not in LONG:
        return ()
    made = []
    for key, name in (("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")):
        factors, count = settings.get(key), _turned(source, settings) // 2
        if not isinstance(factors, list) or len(factors) != count:
            raise DataError(f"{key} should be {count} numbers", where=where(source))
        made.append(Converted(name, np.array(factors, dtype=np.float32), "F32", "F32"))
    return made


PHI3 = Family(MODEL_ARCH.PHI3, _parameters, made=_factors)
