"""Model families: how each architecture's configuration and tensors are told to llama.cpp.

A new family is one more ``Family``: its metadata, and what has to be done to its tensors. What llama.cpp wants is in
its ``conversion/`` (what is written) and ``src/models/`` (what is computed with it).
"""

from __future__ import annotations

from collections.abc import Mapping

from inhouse.errors import DataError
from inhouse_gguf.families.family import Family
from inhouse_gguf.families.gemma3 import GEMMA3
from inhouse_gguf.families.gpt2 import GPT2
from inhouse_gguf.families.llama import LLAMA, MISTRAL, SMOLLM3
from inhouse_gguf.families.phi3 import PHI3
from inhouse_gguf.families.qwen import QWEN2, QWEN3
from inhouse_gguf.families.settings import decoder_parameters
from inhouse_gguf.source import Source

__all__ = ["FAMILIES", "Family", "architecture", "decoder_parameters", "family_of"]

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "SmolLM3ForCausalLM": SMOLLM3,
    "Phi3ForCausalLM": PHI3,
    "Gemma3ForCausalLM": GEMMA3,
    "GPT2LMHeadModel": GPT2,
}
"""By the class in config.json's ``architectures``."""


def architecture(source: Source) -> str:
    """The class of the model; ``none`` where config.json does not say."""
    found = source.config.get("architectures")
    return str(found[0]) if isinstance(found, list) and found else "none"


def family_of(source: Source) -> Family:
    """The family of a model folder. Raises ``DataError`` for one that is not known here."""
    family = FAMILIES.get(architecture(source))
    if family is None:
        raise DataError(
            f"the architecture {architecture(source)} cannot be converted yet (known: {', '.join(FAMILIES)})",
            where=str(source.folder / "config.json"),
            hint="quantizer gguf with converter = PATH/convert_hf_to_gguf.py, of llama.cpp",
        )
    return family
