"""A GGUF file of a Llama model back to what transformers saves: config, weights in bf16, tokenizer.

transformers can read GGUF too, but parses the file three times (25 s against 5 s for SmolLM2-135M), leaves
out the rule that takes digits one by one, and gives a model that cannot be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTROL = 3
"""``tokenizer.ggml.token_type`` of tokens such as ``<|im_end|>``."""


class Gguf:
    """A GGUF file that holds a Llama model with a byte-level BPE tokenizer.

    Raises ``ValueError`` when it is no GGUF or holds something else.
    """

    def __init__(self, file: Path) -> None:
        self._reader = GGUFReader(file)
        for key, wanted in (
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "smollm"),
        ):
            if self.get(key) != wanted:
                raise ValueError(f"{key} is {self.get(key)!r}, and this reads {wanted!r}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def config(self) -> LlamaConfig:
        """The model's config; special token ids included."""
        heads = self.get("llama.attention.head_count")
        return LlamaConfig(
            vocab_size=self.get("llama.vocab_size", len(self.get("tokenizer.ggml.tokens"))),
            hidden_size=self.get("llama.embedding_length"),
            intermediate_size=self.get("llama.feed_forward_length"),
            num_hidden_layers=self.get("llama.block_count"),
            num_attention_heads=heads,
            num_key_value_heads=self.get("llama.attention.head_count_kv", heads),
            max_position_embeddings=self.get("llama.context_length"),
            rms_norm_eps=float(f"{self.get('llama.attention.layer_norm_rms_epsilon'):.6g}"),  # a float32 in the file
            rope_parameters={"rope_type": "default", "rope_theta": self.get("llama.rope.freq_base", 10000.0)},
            bos_token_id=self.get("tokenizer.ggml.bos_token_id"),
            eos_token_id=self.get("tokenizer.ggml.eos_token_id"),
            pad_token_id=self.get("tokenizer.ggml.padding_token_id"),
            tie_word_embeddings=not any(tensor.name == "output.weight" for tensor in self._reader.tensors),
        )

    def model(self, progress: Callable[[int, int], None]) -> Any:
        """A ``LlamaForCausalLM`` in bf16, to be saved (its rotary buffers are not made).

        Tied embeddings stay one tensor. ``progress`` gets tensors done and in all. Raises ``ValueError``
        when a tensor is missing or has another shape.
        """
        config = self.config()
        with torch.device("meta"):  # no random weights first
            model: Any = LlamaForCausalLM(config)
        names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        model.to(torch.bfloat16)
        wanted = dict(model.named_parameters())  # a tied weight once
        state = {}
        for done, (name, like) in enumerate(wanted.items()):
            progress(done, len(wanted))
            tensor = tensors.get(names.get_name(name, try_suffixes=(".weight",)) or "")
            if tensor is None:
                raise ValueError(f"holds no tensor for {name}")
            values = dequantize(tensor.data, tensor.tensor_type)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads or 0
                values = _as_halves(values, heads)
            if values.shape != tuple(like.shape):
                raise ValueError(f"{tensor.name} has the shape {values.shape}, not {tuple(like.shape)}")
            state[name] = torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16)
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        progress(len(wanted), len(wanted))
        return model

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer with its special tokens and chat template.

        Every digit is a token of its own (``tokenizer.ggml.pre`` = smollm in llama.cpp), also ``½``.
        """
        tokens = self.get("tokenizer.ggml.tokens")
        kinds = self.get("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ")) for merge in self.get("tokenizer.ggml.merges")]
        inner = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens(
            [
                AddedToken(token, normalized=False, special=True)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == CONTROL
            ]
        )
        roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        ids = {role: self.get(f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=inner,
            chat_template=self.get("tokenizer.chat_template"),
            clean_up_tokenization_spaces=False,
            model_max_length=self.get("llama.context_length"),
            **{role: tokens[at] for role, at in ids.items() if at is not None},
        )


def _as_halves(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key projection from GGUF's order, in which the two numbers that a rotary embedding
    turns lie side by side, to transformers' order, in which they lie half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
