"""The vocabulary of a ``tokenizer.json`` as GGUF keeps it: byte-level BPE here, sentencepiece's in its module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab
from tokenizers import Tokenizer

from inhouse.errors import DataError
from inhouse_gguf.sentencepiece import read_sentencepiece
from inhouse_gguf.source import read_json
from inhouse_gguf.vocabulary import Vocabulary, fill

PROBE = "Ab's IT'S aBc 12345 x=(7);\n\n  ze\u0301n"
"""Text that each pre-tokenizer of ``SPLITS`` cuts in its own way."""

SPLITS = {
    "gpt-2": "Ab|'s| IT|'|S| aBc| 12345| x|=(|7|);|\n\n | ze|\u0301|n",
    "smollm": "Ab|'s| IT|'|S| aBc| |1|2|3|4|5| x|=(|7|);|\n\n | ze|\u0301|n",
    "llama-bpe": "Ab|'s| IT|'S| aBc| |123|45| x|=(|7|);\n\n| | ze|\u0301n",
    "qwen2": "Ab|'s| IT|'S| aBc| |1|2|3|4|5| x|=(|7|);\n\n| | ze|\u0301n",
    "tekken": "Ab|'s| IT|'S| a|Bc| |1|2|3|4|5| x|=(|7|);\n\n| | ze\u0301n",
    "gpt-4o": "Ab's| IT'S| a|Bc| |123|45| x|=(|7|);\n\n| | ze\u0301n",
}
"""llama.cpp's pre-tokenizer name (``tokenizer.ggml.pre``) -> how it cuts ``PROBE``.

Told by what it does, not by a hash over one vocabulary, so that tokenizers of our own are recognised too.
"""


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """Reads ``tokenizer.json`` for an embedding of ``rows`` rows.

    Raises ``DataError`` when it is no BPE, treats text in a way llama.cpp does not know, or has more tokens than the
    embedding has rows.
    """
    path = folder / "tokenizer.json"
    content = read_json(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every mistake in the file
        raise DataError(f"is no tokenizer: {error}", where=str(path)) from error
    model = content.get("model") or {}
    if model.get("type") != "BPE":
        raise DataError(f"tokenizers of type {model.get('type')} cannot be converted yet", where=str(path))
    if model.get("byte_fallback"):
        return read_sentencepiece(path, content, tokenizer, rows)
    return fill(path, content, rows, model="gpt2", pre=_pre_tokenizer(path, tokenizer))


def _pre_tokenizer(path: Path, tokenizer: Tokenizer) -> str:
    """llama.cpp's name for how the tokenizer cuts text before merging."""
    if tokenizer.pre_tokenizer is None:
        raise DataError("tokenizers without byte-level pre-tokenizer cannot be converted yet", where=str(path))
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(PROBE)
    found = "|".join(PROBE[start:end] for _, (start, end) in pieces)
    whole = "".join(piece for piece, _ in pieces)
    for name, split in SPLITS.items():
        if found == split and whole.startswith("Ab"):  # a space put before it would not show in what was cut
            return name
    raise DataError(
        f"llama.cpp has no known pre-tokenizer that cuts text like this one: {found!r}",
        where=str(path),
        hint=f"a tokenizer that cuts text like one of {', '.join(SPLITS)}",
    )


def write_vocabulary(writer: GGUFWriter, folder: Path, vocabulary: Vocabulary) -> None:
    """Adds tokens, merges or scores, special tokens and the chat template to the metadata."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    try:
        special = SpecialVocab(folder, load_merges=vocabulary.scores is None, n_vocab=len(vocabulary.tokens))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"the tokenizer's special tokens cannot be read: {error}", where=str(folder)) from error
    # llama.cpp adds a BOS for some pre-tokenizers unless told not to: say it always.
    special.add_special_token.setdefault("bos", False)
    _keep_template_plain(special)
    special.add_to_gguf(writer, quiet=True)
    writer.add_add_space_prefix(vocabulary.space_prefix)


def _keep_template_plain(special: SpecialVocab) -> None:
    """Hugging Face keeps a template as text or as a list of named ones; the list may be empty."""
    template: Any = special.chat_template
    if not template:
        special.chat_template = None
