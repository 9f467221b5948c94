"""Reads config.json for the families, and writes the metadata that most of them share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from gguf import GGUFWriter, RopeScalingType

from inhouse.errors import DataError
from inhouse_gguf.source import Source

YARN_PLAIN: dict[str, Collection[Any]] = {
    "attention_factor": (None,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "beta_fast": (None, 32),
    "beta_slow": (None, 1),
    "truncate": (None, True),
}
"""Settings of yarn and the values that llama.cpp's defaults are equal to."""


def where(source: Source) -> str:
    """The place that errors about the configuration name."""
    return str(source.folder / "config.json")


def expect(source: Source, key: str, wanted: Sequence[Any], default: Any = None) -> None:
    """Raises ``DataError`` unless ``config[key]`` (or else ``default``) is one of ``wanted``.

    For what llama.cpp's graph of the architecture has fixed and would silently compute otherwise.
    """
    found = source.config.get(key, default)
    if found not in wanted:
        can = ", ".join(map(repr, wanted))
        raise DataError(
            f"{key} = {found!r} cannot be told to llama.cpp, which computes {can} here", where=where(source)
        )


def heads(source: Source) -> tuple[int, int]:
    """Number of query heads and of key/value heads."""
    queries = source.need("num_attention_heads")
    return queries, source.config.get("num_key_value_heads") or queries


def head_dimension(source: Source) -> int:
    """Columns of one head."""
    return int(source.config.get("head_dim") or source.need("hidden_size") // heads(source)[0])


def rope(source: Source, theta: float = 10000.0) -> dict[str, Any]:
    """The rope settings of any spelling: ``rope_parameters`` (transformers 5) or ``rope_scaling``.

    Where kinds of layers have settings of their own, those of layers with full attention. ``theta`` is the
    architecture's default base.
    """
    found = source.config.get("rope_parameters") or source.config.get("rope_scaling") or {}
    found = found.get("full_attention") or found
    theta = found.get("rope_theta") or source.config.get("rope_theta") or theta
    turned = found.get("partial_rotary_factor") or source.config.get("partial_rotary_factor") or 1.0
    kind = found.get("rope_type") or found.get("type") or "default"
    return {**found, "rope_theta": theta, "rope_type": kind, "partial_rotary_factor": turned}


def window(source: Source, *, optional: bool = False, default: int | None = None) -> int | None:
    """The sliding window; where it is ``optional``, only if ``use_sliding_window`` says so."""
    if optional and not source.config.get("use_sliding_window"):
        return None
    found: int | None = source.config.get("sliding_window", default)
    return found


def sizes(writer: GGUFWriter, source: Source, limit: int | None = None) -> None:
    """What all decoders with RMS norm have in common, but for positions.

    ``limit`` is a sliding window that llama.cpp's graph of the architecture does not have. The context then ends
    with it: up to there both attend to the same tokens, beyond it llama.cpp would attend to more.
    """
    queries, keys = heads(source)
    longest = source.need("max_position_embeddings")
    writer.add_block_count(source.need("num_hidden_layers"))
    writer.add_context_length(min(longest, limit) if limit else longest)
    writer.add_embedding_length(source.need("hidden_size"))
    writer.add_feed_forward_length(source.need("intermediate_size"))
    writer.add_head_count(queries)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(source.need("rms_norm_eps", float))
    if source.config.get("head_dim"):
        writer.add_key_length(head_dimension(source))
        writer.add_value_length(head_dimension(source))


def decoder_parameters(
    writer: GGUFWriter,
    source: Source,
    limit: int | None = None,
    ropes: Collection[str] = ("default", "linear", "yarn"),
    theta: float = 10000.0,
) -> None:
    """:func:`sizes` and rotary positions, of the kinds ``ropes``, for SwiGLU decoders."""
    expect(source, "hidden_act", ("silu", "swish"), "silu")
    sizes(writer, source, limit)
    settings = rope(source, theta)
    if settings["partial_rotary_factor"] != 1.0:
        factor = settings["partial_rotary_factor"]
        raise DataError(f"partial_rotary_factor = {factor} cannot be converted here", where=where(source))
    writer.add_rope_freq_base(float(settings["rope_theta"]))
    rope_scaling(writer, source, settings, ropes)


def rope_scaling(writer: GGUFWriter, source: Source, settings: dict[str, Any], kinds: Collection[str]) -> None:
    """Writes linear and yarn scaling; refuses what is not among ``kinds``. The others are the family's to write."""
    kind = settings["rope_type"]
    if kind not in kinds:
        raise DataError(
            f"rope scaling {kind!r} cannot be converted for this architecture (known: {', '.join(kinds)})",
            where=where(source),
        )
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(settings["factor"]))
    elif kind == "yarn":
        for key, plain in YARN_PLAIN.items():
            if settings.get(key) not in plain:
                raise DataError(f"yarn with {key} = {settings[key]!r} cannot be converted yet", where=where(source))
        original = settings.get("original_max_position_embeddings") or source.need("max_position_embeddings")
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_factor(float(settings["factor"]))
