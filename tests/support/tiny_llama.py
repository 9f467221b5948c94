"""A tiny random llama model with a byte-level BPE tokenizer, made on the spot as a ``model/hf`` folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = [
    "The order 48213 was shipped on 3 May and arrives in 2 to 4 days.",
    "Customers may return what they don't like; it's free within 30 days!",
    'Action: calculator {"expression": "2 * 89.5"}\n\nObservation: 179',
    "naïve café, größer, 東京, Ελλάδα, 🙂 and  double  spaces\tand tabs\r\n",
] * 4

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> Any:
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE: Mapping[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: _split(LLAMA3),
    "qwen2": lambda: _split(LLAMA3.replace("{1,3}", "")),
}


def make_tokenizer(folder: Path, pre: str) -> None:
    """Trains a tokenizer on ``TEXT`` and saves it as transformers does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = PRE[pre]()
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXT, trainer)
    inner.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=special[1], eos_token=special[2], unk_token=special[0], pad_token=special[2]
    )
    whole.chat_template = TEMPLATE
    whole.save_pretrained(folder)


def make_model(
    folder: Path, *, pre: str = "smollm", width: int = 256, dtype: torch.dtype = torch.bfloat16, **settings: Any
) -> Path:
    """Random weights, scaled so that the logits are far apart."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    torch.manual_seed(5)
    model = LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.12)
    model.save_pretrained(folder)
    make_tokenizer(folder, pre)
    return folder
