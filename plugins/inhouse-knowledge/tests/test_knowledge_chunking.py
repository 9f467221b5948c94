"""Passages are slices, fit the limit, keep to headings, and lose nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from inhouse_knowledge.chunking import Chunk, estimate_tokens, split

GUIDE = """# Returns

Intro text here. It has two sentences.

## Shoes

Shoes can be returned within 30 days. They must be clean. No worn ones. Send them back in the box.

### Boots

* item one is here
* item two is there

```
# no heading
```

## Empty

### Deep
[ref]: http://example.org "dropped by Markdown"

text | table
---|---
a | b

Setext
------
Last words.

## Bare
"""


def test_small_documents_stay_whole() -> None:
    assert split("# Care of boots\n\nWax them.\n", "Care of Boots", limit=50) == [
        Chunk("Care of Boots", "Wax them.", 17, 26)
    ]
    assert split("# Other\n\nWax them.", "Boots", limit=50)[0].text == "# Other\n\nWax them."
    assert split(" \r\n\t", "Boots", limit=50) == []
    assert split("# Boots", "Boots", limit=50)[0].text == "# Boots"


def test_headings_make_sections_and_titles() -> None:
    chunks = split(GUIDE, "Returns", limit=16)
    titles = list(dict.fromkeys(chunk.title for chunk in chunks))
    assert titles == [
        "Returns",
        "Returns > Shoes",
        "Returns > Shoes > Boots",
        "Returns > Empty > Deep",
        "Returns > Setext",
        "Returns > Bare",
    ]
    texts = "\n".join(chunk.text for chunk in chunks)
    for kept in ("# no heading", "dropped by Markdown", "a | b", "## Bare", "Last words."):
        assert kept in texts
    assert "## Shoes" not in texts


def test_windows_lines_and_odd_breaks_keep_offsets() -> None:
    for text in (GUIDE.replace("\n", "\r\n"), GUIDE.replace("\n", "\r"), "\x0b\x0c\u2028\x00" + GUIDE):
        for chunk in split(text, "Returns", limit=16):
            assert text[chunk.start : chunk.end] == chunk.text
            assert estimate_tokens(chunk.text) <= 16


def test_passages_of_a_section_are_of_like_size() -> None:
    text = "One two three four five six seven eight nine ten. " * 21
    sizes = [estimate_tokens(chunk.text) for chunk in split(text, "T", limit=110)]
    assert max(sizes) <= 110
    assert min(sizes) > 55


def test_a_word_without_end_is_cut() -> None:
    chunks = split("x" * 100_000, "T", limit=100)
    assert "".join(chunk.text for chunk in chunks) == "x" * 100_000
    assert max(len(chunk.text) for chunk in chunks) <= 100 * 33


MARKDOWN = st.lists(
    st.sampled_from(
        [
            "# A",
            "## B",
            "### C",
            "word",
            "two words.",
            "* item",
            "> quote",
            "```",
            "---",
            "",
            "a|b",
            "-|-",
            "\t",
            "1. x",
        ]
    )
    | st.text(max_size=40),
    max_size=40,
).flatmap(lambda lines: st.sampled_from(["\n", "\r\n", "\n\n"]).map(lambda end: end.join(lines)))


@settings(max_examples=300, deadline=None)
@given(text=MARKDOWN, limit=st.integers(1, 40), by_characters=st.booleans())
def test_any_text_is_cut_into_slices_in_order(text: str, limit: int, by_characters: bool) -> None:
    count = len if by_characters else estimate_tokens
    chunks = split(text, "A", limit=limit, count=count)
    end = 0
    for chunk in chunks:
        assert chunk.start >= end
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        assert count(chunk.text) <= limit or len(chunk.text) == 1
        end = chunk.end
    assert not text.strip() or chunks


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("abcdefg.", min_size=1, max_size=9), min_size=1, max_size=200), limit=st.integers(1, 30))
def test_without_headings_nothing_is_lost(words: list[str], limit: int) -> None:
    text = " ".join(words)
    chunks = split(text, "T", limit=limit)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(words)
