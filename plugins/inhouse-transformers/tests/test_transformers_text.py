"""Streaming text: the pieces are the whole, stop strings never leak."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inhouse_transformers.text import TextStream


class Characters:
    """A tokenizer whose tokens are UTF-8 bytes."""

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


@given(st.text(alphabet="ab\n☃é", max_size=30), st.lists(st.text(alphabet="ab\n☃", min_size=1, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    stream = TextStream(Characters(), stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    joined = "".join(pieces)
    assert joined == stream.text
    # the stop that is complete first wins
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert not any(stop in joined for stop in stops)
    assert joined == text[: min(ends)[1]] if ends else joined == text


def test_unfinished_bytes_come_out_at_the_end() -> None:
    stream = TextStream(Characters(), [])
    assert stream.push(0xE2) == ""
    assert stream.finish() == "\ufffd"


def test_equals_the_tokenizer(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    text = "the order ☃ was — shipped\n\n  on the é third"
    stream = TextStream(tokenizer, [])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == text
