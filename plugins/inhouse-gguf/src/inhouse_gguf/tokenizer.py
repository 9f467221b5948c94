"""The vocabulary of a ``tokenizer.json`` as GGUF keeps it (byte-level BPE)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import frozen
from gguf import GGUFWriter, SpecialVocab, TokenType
from tokenizers import Tokenizer

from inhouse.errors import DataError
from inhouse_gguf.source import read_json

PROBE = "Ab's IT'S 12345 x=(7);\n\n  end"
"""Text that each pre-tokenizer of ``SPLITS`` cuts in its own way."""

SPLITS = {
    "gpt-2": "Ab|'s| IT|'|S| 12345| x|=(|7|);|\n\n | end",
    "smollm": "Ab|'s| IT|'|S| |1|2|3|4|5| x|=(|7|);|\n\n | end",
    "llama-bpe": "Ab|'s| IT|'S| |123|45| x|=(|7|);\n\n| | end",
    "qwen2": "Ab|'s| IT|'S| |1|2|3|4|5| x|=(|7|);\n\n| | end",
}
"""llama.cpp's pre-tokenizer name (``tokenizer.ggml.pre``) -> how it cuts ``PROBE``.

Told by what it does, not by a hash over one vocabulary, so that tokenizers of our own are recognised too.
"""


@frozen
class Vocabulary:
    """Tokens by id, their types, the pre-tokenizer's name; ids past the tokenizer's are filled up."""

    pre: str
    tokens: list[str]
    types: list[int]


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """Reads ``tokenizer.json`` for an embedding of ``rows`` rows.

    Raises ``DataError`` when it is no byte-level BPE, cuts text in a way llama.cpp does not know, or has
    more tokens than the embedding has rows.
    """
    path = folder / "tokenizer.json"
    content = read_json(path)
    model = content.get("model") or {}
    pre = _pre_tokenizer(path, str(model.get("type")))
    names: dict[int, str] = {number: token for token, number in model.get("vocab", {}).items()}
    types = dict.fromkeys(names, int(TokenType.NORMAL))
    for added in content.get("added_tokens") or []:
        names[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED)
    if max(names, default=-1) >= rows:
        raise DataError(
            f"the tokenizer has {max(names) + 1} tokens, the model's embedding only {rows} rows", where=str(path)
        )
    return Vocabulary(
        pre=pre,
        tokens=[names.get(number, f"[PAD{number}]") for number in range(rows)],
        types=[types.get(number, int(TokenType.UNUSED)) for number in range(rows)],
    )


def _pre_tokenizer(path: Path, kind: str) -> str:
    """llama.cpp's name for how the tokenizer cuts text before merging."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every mistake in the file
        raise DataError(f"is no tokenizer: {error}", where=str(path)) from error
    if kind != "BPE" or tokenizer.pre_tokenizer is None:
        raise DataError(
            f"tokenizers of type {kind} without byte-level pre-tokenizer cannot be converted yet", where=str(path)
        )
    spans = [span for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(PROBE)]
    found = "|".join(PROBE[start:end] for start, end in spans)
    for name, split in SPLITS.items():
        if found == split:
            return name
    raise DataError(
        f"llama.cpp has no known pre-tokenizer that cuts text like this one: {found!r}",
        where=str(path),
        hint=f"a tokenizer that cuts text like one of {', '.join(SPLITS)}",
    )


def write_vocabulary(writer: GGUFWriter, folder: Path, vocabulary: Vocabulary) -> None:
    """Adds tokens, merges, special tokens and the chat template to the metadata."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    try:
        special = SpecialVocab(folder, load_merges=True, n_vocab=len(vocabulary.tokens))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"the tokenizer's special tokens cannot be read: {error}", where=str(folder)) from error
    # llama.cpp adds a BOS for some pre-tokenizers unless told not to: say it always.
    special.add_special_token.setdefault("bos", False)
    _keep_template_plain(special)
    special.add_to_gguf(writer, quiet=True)
    writer.add_add_space_prefix(False)


def _keep_template_plain(special: SpecialVocab) -> None:
    """Hugging Face keeps a template as text or as a list of named ones; the list may be empty."""
    template: Any = special.chat_template
    if not template:
        special.chat_template = None
