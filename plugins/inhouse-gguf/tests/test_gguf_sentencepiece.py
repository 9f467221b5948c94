"""Tokenizers with byte fallback: what llama.cpp's sentencepiece cannot say is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inhouse.errors import DataError
from inhouse_gguf.tokenizer import read_vocabulary

Change = Callable[[dict[str, Any]], Any]


def _refused(folder: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_vocabulary(folder, 1000)
    assert "tokenizer.json" in str(caught.value.where)


def _edit(folder: Path, change: Change) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_merges_as_a_bpe_trainer_makes_them(tmp_path: Path, sentencepiece: Any) -> None:
    """One way to each token: llama.cpp would take the others too."""
    sentencepiece(tmp_path, "prepend", ways=slice(1))
    _refused(tmp_path, "are no merge, but llama.cpp would join them")


def _apart(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    first = next(
        i
        for i, pair in enumerate(merges)
        if i and "".join(merges[i - 1]) == "".join(pair) and len(set("".join(pair))) > 1
    )
    merges.append(merges.pop(first))


def _twice(content: dict[str, Any]) -> None:
    added = content["added_tokens"]
    added.append({**added[-1], "id": 600, "content": list(content["model"]["vocab"])[-1]})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_apart, "stand in two places"),
        (lambda each: each["model"]["vocab"].pop("<0x0A>"), "no token <0x0A> for a byte"),
        (lambda each: each.update(normalizer={"type": "NFKC"}), "only spells spaces"),
        (lambda each: each.update(pre_tokenizer={"type": "Whitespace"}), "only spells spaces"),
        (lambda each: each.update(normalizer=None), "only spells spaces"),
        (lambda each: each["model"].update(end_of_word_suffix="</w>"), "with a mark|two tokens|is no tokenizer"),
        (lambda each: each["model"]["merges"].append("a"), "is no tokenizer|no merge"),
        (lambda each: each["model"].update(type="WordLevel", unk_token="<unk>"), "type WordLevel"),  # noqa: S106
        (_twice, "two ids have the token"),
    ],
    ids=["apart", "byte", "nfkc", "words", "plain", "suffix", "merge", "wordlevel", "twice"],
)
def test_tokenizers_that_would_make_other_ids(tmp_path: Path, sentencepiece: Any, change: Change, match: str) -> None:
    sentencepiece(tmp_path, "prepend")
    _edit(tmp_path, change)
    _refused(tmp_path, match)


def test_a_byte_level_tokenizer_that_puts_a_space_first(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text((model / "tokenizer.json").read_text())
    _edit(
        tmp_path,
        lambda each: each.update(
            pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        ),
    )
    _refused(tmp_path, "no known pre-tokenizer")


def test_types_and_scores(tmp_path: Path, sentencepiece: Any) -> None:
    sentencepiece(tmp_path, "gemma")
    found = read_vocabulary(tmp_path, 600)
    at = found.tokens.index
    assert found.scores is not None
    assert not found.space_prefix
    assert [found.types[at(each)] for each in ("<unk>", "<s>", "<0x41>", "▁", "\n\n", "▁▁", "<tool>")] == [
        2,
        3,
        6,
        1,
        4,
        1,
        4,
    ]
    assert found.scores[at("\n\n")] == 0.0 > found.scores[at("▁▁")] > found.scores[at("▁▁▁")]
    assert (found.tokens[-1], found.types[-1]) == ("[PAD599]", 5)
