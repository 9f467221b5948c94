"""GPT-2: learned positions, layer norms, and ``Conv1D`` matrices, which are stored with their columns first."""

from __future__ import annotations

from gguf import MODEL_ARCH, GGUFWriter

from inhouse_gguf.families.family import Family
from inhouse_gguf.families.settings import expect
from inhouse_gguf.source import Source


def _parameters(writer: GGUFWriter, source: Source) -> None:
    expect(source, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    expect(source, "scale_attn_weights", (True,), True)
    expect(source, "scale_attn_by_inverse_layer_idx", (False,), False)
    expect(source, "add_cross_attention", (False,), False)
    width = source.need("n_embd")
    writer.add_block_count(source.need("n_layer"))
    writer.add_context_length(source.need("n_positions"))
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(source.config.get("n_inner") or 4 * width)
    writer.add_head_count(source.need("n_head"))
    writer.add_layer_norm_eps(source.need("layer_norm_epsilon", float))


GPT2 = Family(
    MODEL_ARCH.GPT2,
    _parameters,
    skip=(".attn.bias", ".attn.masked_bias"),
    transposed=(".c_attn.weight", ".c_proj.weight", ".c_fc.weight"),
    layers="n_layer",
    tied=True,
)
