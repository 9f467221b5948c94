"""A byte-level BPE tokenizer trained on the corpus, of the kind that llama.cpp knows as ``smollm``.

Digits are tokens of their own, words are cut as GPT-2 cuts them, and any text can be written, since every
byte is a token. Chats are rendered as ChatML, as SmolLM2-Instruct does, so the model can be fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inhouse.errors import DataError

END_OF_TEXT, TURN_BEGIN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BYTES = 256
SMALLEST = BYTES + 3
"""Every byte and the three special tokens."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, context: int) -> Any:
    """A ``PreTrainedTokenizerFast`` of at most ``vocabulary`` tokens; a small corpus gives fewer.

    Raises ``DataError`` when there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, TURN_BEGIN, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,  # it is told through the step
    )
    made.train_from_iterator(texts, trainer)
    if made.get_vocab_size() <= SMALLEST:
        raise DataError("the corpus is too small to train a tokenizer on")
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        bos_token=TURN_BEGIN,
        eos_token=TURN_END,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def end_of_text(tokenizer: Any) -> list[int]:
    """What closes a document: our own token for it, else the tokenizer's EOS, else nothing."""
    found = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    return [] if found is None else [found]
