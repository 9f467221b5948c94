"""Tokenizers of sentencepiece's kind (Llama 2, Mistral, Phi-3, Gemma) that come as tokenizer.json.

They spell spaces as ▁, merge over the whole text, and fall back to bytes. GGUF's model ``llama`` has no merges: of two
neighbours llama.cpp joins those whose whole has the highest score (``llm_tokenizer_spm``), as sentencepiece does. A
tokenizer.json made from sentencepiece lists every way to cut a token as a merge, in the order of the scores; from it
the scores come back as the places of merges. Merges that cannot be said so are refused, else other ids would come out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from inhouse.errors import DataError
from inhouse_gguf.vocabulary import Vocabulary, fill

SPACE = "▁"
PROBE = "Ab  c\td\n ﬁ½É e\u0301 12."
"""Text that shows whether anything but spaces is changed or cut."""

BYTE = re.compile("<0x[0-9A-F]{2}>")

HINT = "a tokenizer that was made by sentencepiece, or a byte-level one"


def read_sentencepiece(path: Path, content: Mapping[str, Any], tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary of the tokenizer.json ``content`` at ``path``; see :func:`inhouse_gguf.tokenizer.read_vocabulary`.

    Raises ``DataError`` where llama.cpp would make other ids of a text.
    """
    model, where = content["model"], str(path)
    vocab: dict[str, int] = model.get("vocab") or {}
    prefix = _space_prefix(tokenizer, where)
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise DataError("beginnings or ends of words with a mark cannot be converted", where=where, hint=HINT)
    missing = [number for number in range(256) if f"<0x{number:02X}>" not in vocab]
    if missing:
        raise DataError(f"there is no token <0x{missing[0]:02X}> for a byte to fall back to", where=where, hint=HINT)
    added = {each["content"]: bool(each.get("special")) for each in content.get("added_tokens") or []}
    merges = list(_pairs(model.get("merges") or [], where))
    scores = _scores(merges, added.keys(), where)
    parts = [token for token in vocab if not added.get(token) and not BYTE.fullmatch(token)]
    _check_complete(parts, added.keys(), set(merges), where)
    types = {token: TokenType.BYTE for token in vocab if BYTE.fullmatch(token)}
    if unknown := model.get("unk_token"):
        types[unknown] = TokenType.UNKNOWN
    for token, special in added.items():
        if not special and SPACE in token and token in scores:
            types[token] = TokenType.NORMAL  # a run of spaces: only merges find it in text, which has real spaces
    return fill(path, content, rows, model="llama", pre="default", types=types, scores=scores, space_prefix=prefix)


def _space_prefix(tokenizer: Tokenizer, where: str) -> bool:
    """Whether a space is put before the text, told by what is done to ``PROBE``."""
    text = PROBE if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(PROBE)
    pieces = [text]
    if tokenizer.pre_tokenizer is not None:
        pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    spelt = PROBE.replace(" ", SPACE)
    if pieces in ([spelt], [SPACE + spelt]):
        return pieces != [spelt]
    raise DataError(
        f"llama.cpp's sentencepiece only spells spaces as {SPACE}, this tokenizer makes {pieces!r} of {PROBE!r}",
        where=where,
        hint=HINT,
    )


def _pairs(merges: Iterable[Any], where: str) -> Iterable[tuple[str, str]]:
    """Merges in either spelling: "a b" or ["a", "b"]."""
    for each in merges:
        parts = each.split(" ") if isinstance(each, str) else each
        if not isinstance(parts, list) or len(parts) != 2:
            raise DataError(f"{each!r} is no merge of two tokens", where=where)
        yield parts[0], parts[1]


def _scores(merges: list[tuple[str, str]], added: Collection[str], where: str) -> dict[str, float]:
    """The score of each token that merges make: minus the place of the first.

    All merges to one token have to follow each other, for it has one score. Tokens that are ``added`` need not: they
    are found before anything is merged. Nor do runs of one character: only longer runs compete with them.
    """
    scores: dict[str, float] = {}
    last = ""
    for place, (left, right) in enumerate(merges):
        token = left + right
        if token in scores and token != last and token not in added and len(set(token)) > 1:
            raise DataError(f"merges to {token!r} stand in two places", where=where, hint=HINT)
        scores.setdefault(token, -float(place))
        last = token
    return scores


def _check_complete(parts: list[str], added: Collection[str], merges: set[tuple[str, str]], where: str) -> None:
    """llama.cpp joins any two neighbours that make a token: each way to cut one into ``parts`` has to be a merge."""
    known = set(parts)
    for token in parts:
        if token in added:
            continue
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair not in merges and pair[0] in known and pair[1] in known:
                raise DataError(
                    f"{pair[0]!r} and {pair[1]!r} are no merge, but llama.cpp would join them to {token!r}",
                    where=where,
                    hint=HINT,
                )
