"""Model families: how each architecture's configuration and tensors are told to llama.cpp.

A new family is one more ``Family``: its metadata, and what has to be done to its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from inhouse.errors import DataError
from inhouse_gguf.source import Source
from inhouse_gguf.values import Converted

Array = NDArray[Any]


def _unchanged(source: Source, name: str, values: Array) -> Array:
    return values


def _nothing(source: Source) -> Sequence[Converted]:
    return ()


@frozen
class Family:
    """One architecture.

    ``parameters`` writes metadata; ``arrange`` reorders a tensor's rows (a view, in the stored dtype), and those of
    an adapter's lora_b with them; ``made`` gives float32 tensors that the folder lacks; ``skip`` names tensors that
    are not converted.
    """

    arch: MODEL_ARCH
    parameters: Callable[[GGUFWriter, Source], None]
    arrange: Callable[[Source, str, Array], Array] = _unchanged
    made: Callable[[Source], Sequence[Converted]] = _nothing
    skip: tuple[str, ...] = (".rotary_emb.inv_freq",)

    @property
    def arch_name(self) -> str:
        """The name in ``general.architecture``."""
        return MODEL_ARCH_NAMES[self.arch]


def heads(source: Source) -> tuple[int, int]:
    """Number of query heads and of key/value heads."""
    queries = source.need("num_attention_heads")
    return queries, source.config.get("num_key_value_heads") or queries


def head_dimension(source: Source) -> int:
    """Columns of one head."""
    return int(source.config.get("head_dim") or source.need("hidden_size") // heads(source)[0])


def rope(source: Source) -> dict[str, Any]:
    """The rope settings of either spelling: ``rope_parameters`` (transformers 5) or ``rope_scaling``."""
    found = source.config.get("rope_parameters") or source.config.get("rope_scaling") or {}
    theta = found.get("rope_theta") or source.config.get("rope_theta") or 10000.0
    return {**found, "rope_theta": theta, "rope_type": found.get("rope_type") or found.get("type") or "default"}


def decoder_parameters(writer: GGUFWriter, source: Source) -> None:
    """What all decoders with rotary positions and RMS norm have in common."""
    queries, keys = heads(source)
    writer.add_block_count(source.need("num_hidden_layers"))
    writer.add_context_length(source.need("max_position_embeddings"))
    writer.add_embedding_length(source.need("hidden_size"))
    writer.add_feed_forward_length(source.need("intermediate_size"))
    writer.add_head_count(queries)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(source.need("rms_norm_eps", float))
    if source.config.get("head_dim"):
        writer.add_key_length(head_dimension(source))
        writer.add_value_length(head_dimension(source))
    writer.add_rope_freq_base(float(rope(source)["rope_theta"]))
    _rope_scaling(writer, source)


def _rope_scaling(writer: GGUFWriter, source: Source) -> None:
    settings = rope(source)
    kind = settings["rope_type"]
    if kind in ("default", "llama3"):  # llama3's factors are a tensor: see rope_factors
        return
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_orig_ctx_len(
            settings.get("original_max_position_embeddings") or source.need("max_position_embeddings")
        )
    else:
        raise DataError(f"rope scaling {kind!r} cannot be converted yet", where=str(source.folder / "config.json"))
    writer.add_rope_scaling_factor(float(settings["factor"]))


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


def _llama_parameters(writer: GGUFWriter, source: Source) -> None:
    decoder_parameters(writer, source)
    writer.add_rope_dimension_count(head_dimension(source))


def _llama_arrange(source: Source, name: str, values: Array) -> Array:
    queries, keys = heads(source)
    if ".q_proj." in name:
        return interleave_heads(values, queries)
    if ".k_proj." in name:
        return interleave_heads(values, keys)
    return values


LLAMA = Family(MODEL_ARCH.LLAMA, _llama_parameters, _llama_arrange, rope_factors)

FAMILIES: Mapping[str, Family] = {"LlamaForCausalLM": LLAMA}
"""By the class in config.json's ``architectures``."""


def family_of(source: Source) -> Family:
    """The family of a model folder. Raises ``DataError`` for one that is not known here."""
    classes = source.config.get("architectures") or ["none"]
    family = FAMILIES.get(str(classes[0]))
    if family is None:
        raise DataError(
            f"the architecture {classes[0]} cannot be converted yet (known: {', '.join(FAMILIES)})",
            where=str(source.folder / "config.json"),
        )
    return family
