"""The source on folders made on the spot: rows, ids, metadata, copies, options; and as part of a knowledge base."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from documents_made import FolderStep, pdf, read, word_of
from hypothesis import given, settings
from hypothesis import strategies as st

from inhouse import options as options_
from inhouse.errors import DataError, RecipeError, ResourceError
from inhouse.values import Artifact
from inhouse_documents import Options, inhouse_sources, minhash
from inhouse_documents.seen import Copy, Seen
from inhouse_documents.source import DocumentsSource


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def shop(folder: Path) -> Path:
    return write(
        folder,
        {
            "returns.md": "---\ntitle: Returns\nyear: 2025\ntenant: south\n---\n# Sending back\n\nWithin 45 days.",
            "care/boots.html": "<title>x</title><h1>Boots</h1><p>Wax them in autumn.",
            "care/tents.pdf": pdf(["Tents", "Dry them.\n# no heading"], "Care of tents"),
            "care/letter.docx": word_of("Dear customer, the shop is closed in August."),
            "care/returns.txt": "Opening hours\n\nNine to five.",
            "prices.csv": "product,price\nRope,20\nStove,90\n",
            "dump.jsonl": '{"text": "The map is free.", "id": "map", "metadata": {"tenant": "south", "tags": ["a"]}}\n'
            '{"text": "The guide costs 5 euros.", "title": "Guide"}\n',
        },
    )


def test_a_folder_becomes_a_corpus(tmp_path: Path) -> None:
    step = read(shop(tmp_path / "docs"), tmp_path / "out")
    rows = step.rows()
    assert [(row["id"], row["title"], row["path"]) for row in rows.values()] == [
        ("boots", "Boots", "care/boots.html"),
        ("letter", "letter", "care/letter.docx"),
        ("care/returns", "Opening hours", "care/returns.txt"),
        ("tents", "Care of tents", "care/tents.pdf"),
        ("map", "dump 1", "dump.jsonl:1"),
        ("dump-2", "Guide", "dump.jsonl:2"),
        ("prices-2", "Rope", "prices.csv:2"),
        ("prices-3", "Stove", "prices.csv:3"),
        ("returns", "Returns", "returns.md"),
    ]
    assert rows["tents"]["text"] == "Tents\n\nDry them.\n# no heading"
    assert rows["tents"]["pages"] == [0, 7]
    assert rows["returns"]["text"] == "# Sending back\n\nWithin 45 days."
    assert rows["returns"]["metadata"] == {"year": 2025, "tenant": "south"}
    assert rows["map"]["metadata"] == {"tenant": "south", "tags": ["a"]}
    assert rows["prices-2"]["text"] == "product: Rope\nprice: 20"
    for name in ("boots", "prices-2"):
        assert rows[name].keys() == {"id", "title", "text", "path"}
    assert step.told[-1] == (7, 7)
    assert step.facts == {"files": 7, "documents": 9, "findings": {}, "skipped": []}
    assert step.notices[-1].startswith("9 documents from 7 files, ")
    written = sorted(path.name for path in step.outputs["text/corpus"].iterdir())
    assert written == ["corpus.jsonl", "parsed.jsonl"]


def test_the_recipes_metadata_goes_before_a_documents(tmp_path: Path) -> None:
    rows = read(shop(tmp_path / "docs"), tmp_path / "out", metadata={"tenant": "north", "open": True}).rows()
    assert {row["metadata"]["tenant"] for row in rows.values()} == {"north"}
    assert rows["returns"]["metadata"] == {"year": 2025, "tenant": "north", "open": True}
    assert rows["boots"]["metadata"] == {"tenant": "north", "open": True}


def test_titles_of_markdown(tmp_path: Path) -> None:
    texts = [
        "# One",
        "text\n\n  ## Two ##",
        "# C#\n# Other",
        "#no\n# \n####### no\n# #\n### Three",
        "~~~\n# no\n~~~~\n# Four #",
        "no",
    ]
    folder = write(tmp_path / "docs", {f"f{at}.md": text for at, text in enumerate(texts)})
    titles = [row["title"] for row in read(folder, tmp_path / "out", near_duplicates=1.0).rows().values()]
    assert titles == ["One", "Two", "C#", "Three", "Four", "f5"]


def test_front_matter_that_is_nested_is_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", {"a.md": "---\ntitle: 2025\nowner:\n  name: Ada\nyear: 2025\n---\nText."})
    step = read(folder, tmp_path / "out")
    assert step.rows()["a"] == {"id": "a", "title": "2025", "text": "Text.", "path": "a.md", "metadata": {"year": 2025}}
    assert step.facts["findings"] == {"front-matter": 1}
    assert step.notices[0].startswith("front-matter: a.md: front matter of owner is nested")


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (read(shop(tmp_path / name), tmp_path / f"out-{name}") for name in ("b", "a"))
    assert one.corpus == two.corpus


def test_as_a_step_of_a_recipe(tmp_path: Path) -> None:
    conformance = pytest.importorskip("inhouse_testing.conformance")
    conformance.check_light("inhouse_documents")
    (spec,) = conformance.specs("inhouse_documents")
    conformance.check_spec(spec)
    folder = shop(tmp_path / "docs")
    made = conformance.check_stage(spec, {}, tmp_path, {"folder": str(folder), "metadata": {"tenant": "north"}})
    assert len((made["text/corpus"].path / "corpus.jsonl").read_bytes().splitlines()) == 9


def test_one_file(tmp_path: Path) -> None:
    folder = shop(tmp_path / "docs")
    assert list(read(folder / "care/boots.html", tmp_path / "1").rows()) == ["boots"]
    with pytest.raises(DataError, match=r"documents come as \.md, .*this is \.png"):
        read(write(folder, {"a.png": ""}) / "a.png", tmp_path / "2")


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="in this folder"):
        read(tmp_path / "empty", tmp_path / "1")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none", tmp_path / "2")
    with pytest.raises(DataError, match=r"(?s)no document is left:.*empty-text: a.md"):
        read(write(tmp_path / "blank", {"a.md": " \n", "b.txt": "\ufeff"}), tmp_path / "3")


def test_ids_are_unique(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "docs",
        {
            "a.jsonl": '{"text": "one", "id": "manual"}\n{"text": "two", "id": "same"}\n{"text": "three", "id": "same"}\n'
            '{"text": "four", "id": ""}\n{"text": "five", "id": true}\n',
            "a-4.md": "six",
            "manual.md": "seven",
            "x/same.md": "eight",
            "y/same.md": "nine",
            "y/same.txt": "ten",
        },
    )
    step = read(folder, tmp_path / "out")
    assert {row["id"]: row["text"] for row in step.rows().values()} == {
        "a-4": "six", "a-1": "one", "same": "two", "a-3": "three", "a-4-row": "four", "a-5": "five", "manual": "seven",
        "x/same": "eight", "y/same.md": "nine", "y/same.txt": "ten",
    }  # fmt: skip
    assert step.facts["findings"] == {"id": 3}


TEXT = " ".join(f"word{at}" for at in range(300))


def test_copies(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "docs",
        {
            "a.md": TEXT,
            "b.txt": TEXT.replace(" ", "\n"),
            "c.html": f"<p>{TEXT.upper()}.",
            "d.md": TEXT.replace("word150", "changed"),
            "e.md": TEXT.replace("word1", "other"),
            "prices.csv": "name,text\n" + f"x,{TEXT}\ny,{TEXT}\nz,{TEXT}\nz,{TEXT}\n",
        },
    )
    step = read(folder, tmp_path / "out")
    assert list(step.rows()) == ["a", "e", "prices-2", "prices-3", "prices-4"]
    assert step.skipped() == {
        "b.txt": "duplicate", "c.html": "near-duplicate", "d.md": "near-duplicate", "prices.csv:5": "duplicate",
    }  # fmt: skip
    assert step.reason("b.txt") == "is the same text as a.md"
    assert step.reason("c.html") == "is 100% the same as a.md (estimated)"
    assert step.reason("d.md").endswith("% the same as a.md (estimated)")
    assert any(line.startswith("near-duplicate: c.html: is 100%") and "1 more" in line for line in step.notices)
    exact = read(folder, tmp_path / "exact", near_duplicates=1.0)
    assert list(exact.rows()) == ["a", "c", "d", "e", "prices-2", "prices-3", "prices-4"]


def test_what_another_tenant_may_see_is_no_copy(tmp_path: Path) -> None:
    rows = [{"text": TEXT + end, "metadata": {"tenant": who}} for end in ("", " more") for who in ("north", "south")]
    folder = write(tmp_path / "docs", {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    step = read(folder, tmp_path / "out")
    assert {name: row["metadata"]["tenant"] for name, row in step.rows().items()} == {"a-1": "north", "a-2": "south"}
    assert {path: step.reason(path).rpartition(" the same as ")[2] for path in step.skipped()} == {
        "a.jsonl:3": "a.jsonl:1 (estimated)", "a.jsonl:4": "a.jsonl:2 (estimated)",
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 100), st.integers(0, 1 << 30))
def test_the_estimate_is_near_the_truth(words: int, cut: int, seed: int) -> None:
    drawn = random.Random(seed)
    one = [f"w{drawn.randrange(1 << 40)}" for _ in range(words)]
    other = [each if drawn.random() > cut / 1000 else "x" for each in one]
    sets = [{tuple(each[at : at + 5]) for at in range(max(1, words - 4))} for each in (one, other)]
    true = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    signatures = [minhash.signature(" ".join(each)) for each in (one, other)]
    assert abs(minhash.similarity(*signatures) - true) < 0.15
    assert minhash.similarity(signatures[0], signatures[0]) == 1.0


def test_similar_texts_meet(tmp_path: Path) -> None:
    """Among a thousand others, one that is 95 % the same is found, and the others are not taken for copies."""
    drawn = random.Random(3)
    words = [f"w{at}" for at in range(2000)]
    texts = [" ".join(drawn.choices(words, k=drawn.randint(5, 200))) for _ in range(1000)]
    seen = Seen(tmp_path, 0.8)
    assert all(seen.copied(text, str(at)) is None for at, text in enumerate(texts))
    for at, text in enumerate(texts):
        changed = text.split()
        if len(changed) < 80:
            continue
        changed[len(changed) // 2] = "other"
        found = seen.copied(" ".join(changed), "copy")
        assert found is not None
        assert found.place == str(at)
        assert 0.8 <= found.similarity <= 1
    seen.close()
    assert list(tmp_path.iterdir()) == []


def test_crowds_stay_cheap(tmp_path: Path) -> None:
    """Many documents that share most of their words: lookups are bounded, copies are still found."""
    seen = Seen(tmp_path, 0.9)
    footer = " ".join(f"legal{at}" for at in range(60))
    for at in range(400):
        assert seen.copied(f"{' '.join(f'own{at}x{n}' for n in range(30))} {footer}", str(at)) is None
    (most,) = seen._connection.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM keys GROUP BY key)").fetchone()
    assert most <= 64
    assert seen.copied(f"{' '.join(f'own7x{n}' for n in range(30))} {footer}!", "copy") == Copy("7", 1.0)
    seen.close()


def test_words() -> None:
    assert minhash.signature("One, two THREE  four: five!") == minhash.signature("one two three four five")
    assert minhash.signature("一二三四五六七八") != minhash.signature("一二三四五六七九")
    for nothing in ("", " .!"):
        assert minhash.bands(minhash.signature(nothing), 8) == []
        assert minhash.similarity(minhash.signature(nothing), minhash.signature(nothing)) == 0.0
    assert [minhash.rows(each) for each in (0.5, 0.8, 0.9, 0.99)] == [2, 8, 8, 16]


def build(**table: Any) -> Options:
    made: Options = options_.build(Options, table, folder=Path(__file__).parent, path="steps.h.documents", where=str)
    return made


def test_options() -> None:
    made = build(folder=".", metadata={"tenant": "north", "year": 2025, "tags": ["a", 1]}, memory="512MiB")
    assert made.metadata["tags"] == ["a", 1]
    for table, why in (
        ({}, "needs 'folder'"),
        ({"folder": ".", "memory": "1MiB"}, "memory: 'memory' has to be at least 256MiB"),
        ({"folder": ".", "memory": "much"}, "memory: 'memory' has to be a size"),
        ({"folder": ".", "unpacked": "1kB"}, "unpacked: 'unpacked' has to be at least 1MiB"),
        ({"folder": ".", "near_duplicates": 0.2}, "near_duplicates: "),
        ({"folder": ".", "seconds": 0}, "seconds: "),
        ({"folder": ".", "metadata": {"a": {"b": 1}}}, "metadata: 'metadata' holds a = "),
        ({"folder": ".", "metadata": {"a": [[1]]}}, "metadata: 'metadata' holds a = "),
        ({"folder": ".", "metadata": {"a": 1 << 70}}, "metadata: 'metadata' holds a = "),
        ({"folder": "none"}, "no such file"),
    ):
        with pytest.raises(RecipeError, match=why):
            build(**table)


def test_spec_and_describe(tmp_path: Path) -> None:
    (spec,) = inhouse_sources()
    assert (spec.produces, spec.version) == (("text/corpus",), 2)
    folder = write(tmp_path / "docs", {"a.md": "12345", "b.png": "123", ".c.md": "12"})
    assert DocumentsSource(Options(folder)).describe() == {"bytes": 5}
    assert DocumentsSource(Options(tmp_path / "none")).describe() == {"bytes": 0}


def test_large_corpora_are_streamed(tmp_path: Path) -> None:
    """Rows are written as they are read: what is written before the end is not held back."""
    lines = "".join(json.dumps({"text": f"text {at} " + "x" * 1000}) + "\n" for at in range(3000))
    folder = write(tmp_path / "docs", {"a.jsonl": lines, "b.md": "last"})
    sizes: dict[str, int] = {}

    def before(name: str) -> None:
        out = tmp_path / "out" / "output" / "corpus.jsonl"
        sizes[name] = out.stat().st_size if out.exists() else 0

    step = FolderStep(tmp_path / "out", before=before)
    DocumentsSource(Options(folder, near_duplicates=1.0)).produce(step)  # type: ignore[arg-type]
    assert sizes["b.md"] > 3_000_000


def test_end_to_end_it_is_found(tmp_path: Path) -> None:
    indexer = pytest.importorskip("inhouse_knowledge.indexer")
    sys.path.append(str(Path(indexer.__file__).parents[2] / "tests"))
    standins = pytest.importorskip("knowledge_standins")
    step = read(shop(tmp_path / "docs"), tmp_path / "out")
    base_step = standins.FolderStep(tmp_path / "base", standins.HashingEmbedder())
    indexer.SqliteIndexer().index(base_step, Artifact("text/corpus", step.outputs["text/corpus"], "0"))
    base = standins.opened(base_step.output)
    for query, document in (
        ("wax in autumn", "boots"), ("Dry them", "tents"), ("closed in August", "letter"), ("price of the Stove", "prices-3"),
        ("the map is free", "map"), ("nine to five", "care/returns"), ("within 45 days", "returns"),
    ):  # fmt: skip
        best = base.search(query, 1)[0]
        assert best.document == document
        assert step.rows()[document]["text"][best.start : best.end] == best.text
    base.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = shop(tmp_path / "docs")
    step = FolderStep(tmp_path / "out")
    (step.outputs["text/corpus"] / "corpus.jsonl").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"cannot write the corpus: .*No space left"):
        DocumentsSource(Options(folder)).produce(step)  # type: ignore[arg-type]
