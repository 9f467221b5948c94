"""What a base takes over from the one of the run before, and what it does not."""

from __future__ import annotations

from pathlib import Path

from knowledge_standins import HashingEmbedder, document, index, many

from inhouse_knowledge.indexer import DATABASE


def content(folder: Path) -> bytes:
    return (folder / DATABASE).read_bytes()


def test_vectors_of_another_number_format_are_not_taken_over(tmp_path: Path) -> None:
    rows = many(3)
    narrow = HashingEmbedder()
    narrow.dtype = "bfloat16"
    first = index(tmp_path / "1", rows, embedder=narrow)
    for dtype, embedded in (("float64", 3), ("bfloat16", 0)):
        embedder = HashingEmbedder()
        embedder.dtype = dtype
        index(tmp_path / dtype, rows, embedder=embedder, before=[first.output])
        assert sum(map(len, embedder.calls)) == (embedded and first.facts["passages"])


def test_a_later_run_embeds_only_what_changed(tmp_path: Path) -> None:
    rows = many(150)
    rows[9]["text"] = f"# First\n{rows[9]['text']}\n# Second\nShort.\n# Third\n{rows[18]['text']}"
    first = index(tmp_path / "1", rows)
    changed = [
        *rows[:9],
        {**rows[9], "text": rows[9]["text"].replace("Short.", "Now of zebras.")},
        *({**row, "path": "moved.md", "metadata": {"year": 2026}} for row in rows[10:70]),
        *rows[72:],
        document("new", "Something new."),
    ]
    embedder = HashingEmbedder()
    second = index(tmp_path / "2", changed, embedder=embedder, before=[first.output])
    embedded = [text for call in embedder.calls for text in call]
    assert len(embedded) == 2, embedded
    assert embedded[0].endswith("Now of zebras.")
    assert embedded[1] == "New\nSomething new."
    fresh = index(tmp_path / "3", changed)
    assert content(second.output) == content(fresh.output), "as if there had been no run before"
    assert any(str(fresh.facts["passages"] - 2) in said for said in second.notices), second.notices
    assert "item71" not in content(second.output).decode("latin-1")
