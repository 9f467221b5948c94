"""Tokens by id, with what GGUF says of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from gguf import TokenType

from inhouse.errors import DataError

NEVER = -1e9
"""The score of a token that no merge makes."""

UNSTRIPPED = ("<unk>", "<s>", "<|endoftext|>")
"""Phi-3's special tokens after which spaces stay: the exceptions that llama.cpp (``llama-vocab.cpp``) makes."""


@frozen
class Vocabulary:
    """Tokens by id and their types; ids past the tokenizer's are filled up.

    ``model`` and ``pre`` are ``tokenizer.ggml.model`` and ``.pre``. ``scores``, for sentencepiece only, say which
    merge comes first, and ``space_prefix`` whether a space is put before the text. ``strips``: as in Phi-3, special
    tokens swallow the spaces after them.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    space_prefix: bool = False
    strips: bool = False


def fill(
    path: Path,
    content: Mapping[str, Any],
    rows: int,
    *,
    model: str,
    pre: str,
    types: Mapping[str, TokenType] | None = None,
    scores: Mapping[str, float] | None = None,
    space_prefix: bool = False,
) -> Vocabulary:
    """The vocabulary of the tokenizer.json ``content`` at ``path``, for ``rows`` rows.

    ``types`` and ``scores`` by a token's text; without a type it is CONTROL if added as a special token, USER_DEFINED
    if added, else NORMAL. Raises ``DataError`` for more tokens than rows, and for a text that two ids have.
    """
    names: dict[int, str] = {number: token for token, number in content["model"].get("vocab", {}).items()}
    kinds: dict[int, TokenType] = dict.fromkeys(names, TokenType.NORMAL)
    for added in content.get("added_tokens") or []:
        names[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED
    if max(names, default=-1) >= rows:
        raise DataError(
            f"the tokenizer has {max(names) + 1} tokens, the model's embedding only {rows} rows", where=str(path)
        )
    given = types or {}
    kinds = {number: given.get(name, kinds[number]) for number, name in names.items()}
    tokens = [_shown(names.get(number, f"[PAD{number}]"), kinds.get(number), scores) for number in range(rows)]
    if len(set(tokens)) < rows:
        twice = Counter(tokens).most_common(1)[0][0]
        raise DataError(f"two ids have the token {twice!r}, which llama.cpp does not load", where=str(path))
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        types=[int(kinds.get(number, TokenType.UNUSED)) for number in range(rows)],
        scores=None if scores is None else [scores.get(names.get(number, ""), NEVER) for number in range(rows)],
        space_prefix=space_prefix,
        strips=_strips(content, set(tokens)),
    )


def _shown(name: str, kind: TokenType | None, scores: Mapping[str, float] | None) -> str:
    """The text of a token. llama.cpp looks for sentencepiece's USER_DEFINED tokens before it spells spaces as ▁."""
    return name.replace("▁", " ") if scores is not None and kind == TokenType.USER_DEFINED else name


def _strips(content: Mapping[str, Any], tokens: set[str]) -> bool:
    """Whether most added tokens swallow spaces, in a vocabulary for which llama.cpp can be told so."""
    if not {"</s>", *UNSTRIPPED} <= tokens:
        return False
    told = [bool(each.get("rstrip")) for each in content["added_tokens"] if each["content"] not in UNSTRIPPED]
    return 2 * sum(told) > len(told)
