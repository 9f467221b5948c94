"""Pieces of text: whole characters, no stop string, whatever the tokens cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inhouse_llamacpp.cache import common_prefix
from inhouse_llamacpp.text import TextStream


def _cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[a:b] for a, b in pairwise(edges)]


@given(
    st.text(max_size=40),
    st.lists(st.integers(0, 200), max_size=20),
    st.lists(st.text("ab\n🙂", min_size=1, max_size=3), max_size=3),
)
def test_pieces_make_the_text_up_to_the_first_stop_string(text: str, places: list[int], stop: list[str]) -> None:
    stream = TextStream(stop)
    pieces = []
    for chunk in _cut(text.encode(), places):
        pieces.append(stream.feed(chunk))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    found = "".join(pieces)
    assert found == stream.text
    assert not any(each in found for each in stop)
    ends = [text.index(each) for each in stop if each in text]
    assert stream.stopped == bool(ends)
    assert text.startswith(found) and (found == text or bool(ends))


def test_a_cut_character_is_dropped_and_a_wrong_byte_replaced() -> None:
    stream = TextStream(())
    assert stream.feed("🙂".encode()[:2]) == ""
    assert stream.finish() == ""
    assert TextStream(()).feed(b"a\xffb") == "a\ufffdb"


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    length = common_prefix(left, right)
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]
