"""The indexer and the open knowledge base, on real SQLite files."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from knowledge_standins import (
    DIMENSION,
    ExactStore,
    FolderStep,
    HashingEmbedder,
    Rereading,
    corpus,
    document,
    index,
    many,
    opened,
)

from inhouse.errors import ArtifactError, DataError, Interrupted, PluginError, RecipeError, ResourceError
from inhouse_knowledge import Options, inhouse_indexers
from inhouse_knowledge.indexer import DATABASE, SqliteIndexer

SHOP = [
    document("returns", "Unused items can be returned within 45 days of delivery."),
    document("boots", "Boots have a warranty of 18 months on the sole."),
    document("tents", "Tents have a warranty of 3 years on the poles."),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index(tmp_path_factory.mktemp("shop"), SHOP).output


def content(folder: Path) -> bytes:
    return (folder / DATABASE).read_bytes()


def test_declares_one_indexer() -> None:
    (spec,) = inhouse_indexers()
    assert (spec.name, spec.kind, spec.produces) == ("sqlite", "indexer", ("knowledge",))
    assert [slot.default for slot in spec.slots] == ["hnswlib", "minilm"]
    assert SqliteIndexer().probe() is None
    assert "both 0" in (SqliteIndexer(Options(dense_weight=0, lexical_weight=0)).probe() or "")


def test_finds_the_passage_and_says_where_it_is(shop: Path) -> None:
    base = opened(shop)
    best, *_ = base.search("warranty on boots")
    assert (best.document, best.chunk, best.title) == ("boots", 0, "Boots")
    assert SHOP[1]["text"][best.start : best.end] == best.text == SHOP[1]["text"]
    assert [row.document for row in base.documents()] == ["returns", "boots", "tents"]
    assert base.count() == 3
    assert len(base.search("warranty", 100)) == 3
    assert len(base.search("warranty", 2)) == 2
    for nothing in ("", " \n", "\x00"):
        assert opened(shop, dense_weight=0).search(nothing) == []
    assert base.search("warranty", 0) == base.search("  ", 3) == []
    base.close()
    with pytest.raises(ValueError, match="closed"):
        base.search("warranty")


def test_each_leg_alone_and_both_by_weight(shop: Path) -> None:
    words = opened(shop, dense_weight=0)
    assert [hit.document for hit in words.search("returned items")] == ["returns"]
    assert [hit.document for hit in words.search("return item")] == ["returns"], "words are stemmed"
    vectors = opened(shop, lexical_weight=0).search("returned items", 3)
    assert len(vectors) == 3
    both = opened(shop, lexical_weight=0.5).search("returned items", 3)
    assert both[0].score == pytest.approx(vectors[0].score + 0.5, abs=1e-5)
    assert {hit.document: hit.score for hit in both[1:]} == {hit.document: hit.score for hit in vectors[1:]}


def test_a_cross_encoder_orders_the_best_anew(tmp_path: Path) -> None:
    rows = [document(f"zebra-{at}", f"Stripes {'z' * at} here.", "Animal") for at in range(6)]
    embedder = Rereading()
    folder = index(tmp_path, rows, Options(rerank=4), embedder=embedder).output
    plain = opened(folder, embedder=embedder, rerank=0).search("stripes here", 6)
    base = opened(folder, embedder=embedder, rerank=4)
    found = base.search("stripes here", 2)
    assert sorted(embedder.reread) == sorted(f"Animal\n{each.text}" for each in plain[:4])
    first, second = sorted(plain[:4], key=lambda each: -each.text.count("z"))[:2]
    assert [hit.document for hit in found] == [first.document, second.document]
    assert found[0].score == first.text.count("z")
    assert len(base.search("stripes here", 6)) == 6
    assert len(embedder.reread) == 6, "as many as are asked for"
    assert base.search("", 3) == []
    assert opened(folder, rerank=4).search("stripes here", 6) == plain, "an embedder without one"


def test_equal_passages_come_in_the_order_of_the_documents(tmp_path: Path) -> None:
    made = index(tmp_path, [document(f"same-{at}", "All the same words.", "Title") for at in range(300)])
    for options in ({}, {"dense_weight": 0}, {"lexical_weight": 0}):
        found = opened(made.output, **options).search("the same words", 20)
        assert [hit.document for hit in found] == [f"same-{at}" for at in range(20)]


def test_only_what_changed_is_embedded_again(tmp_path: Path) -> None:
    rows = many(150)
    first = index(tmp_path / "1", rows)
    changed = [*rows[:70], {**rows[70], "text": "Now about zebras."}, *rows[72:], document("new", "Something new.")]
    embedder = HashingEmbedder()
    second = index(tmp_path / "2", changed, embedder=embedder, checkpoints=first.checkpoints)
    texts = [text for call in embedder.calls for text in call]
    assert sorted(texts) == ["Doc-70\nNow about zebras.", "New\nSomething new."]
    base = opened(second.output)
    assert base.search("zebras", 1)[0].document == "doc-70"
    names = {row.document for row in base.documents()}
    assert names == {row["id"] for row in changed}
    assert "doc-71" not in {hit.document for hit in base.search("item71", 50)}
    assert opened(second.output, dense_weight=0).search("item71") == []
    fresh = opened(index(tmp_path / "3", changed).output)
    for query in ("item3 thing3", "zebras", "about thing5"):
        assert {(h.document, h.score) for h in fresh.search(query, 5)} == {
            (h.document, h.score) for h in base.search(query, 5)
        }


def test_another_embedder_or_chunk_size_starts_anew(tmp_path: Path) -> None:
    first = index(tmp_path / "1", SHOP)
    for at, (name, options) in enumerate((("other@2", Options()), ("other@2", Options(chunk_tokens=50)))):
        embedder = HashingEmbedder(name)
        index(tmp_path / f"a{at}", SHOP, options, embedder=embedder, checkpoints=first.checkpoints)
        assert sum(map(len, embedder.calls)) == 3
    embedder = HashingEmbedder()
    (first.checkpoints / DATABASE).write_bytes(b"damaged" * 1000)
    step = index(tmp_path / "b", SHOP, embedder=embedder, checkpoints=first.checkpoints)
    assert sum(map(len, embedder.calls)) == 3
    assert content(step.output) == content(first.output)


def test_the_same_corpus_gives_the_same_bytes_and_one_file(tmp_path: Path) -> None:
    one, two = index(tmp_path / "1", many(200)), index(tmp_path / "2", many(200))
    assert content(one.output) == content(two.output)
    assert sorted(path.name for path in one.output.iterdir()) == ["index", DATABASE]
    with sqlite3.connect(one.output / DATABASE) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    assert one.facts["documents"] == 200
    assert one.facts["passages"] > 200
    assert one.told[-1] == 200


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from knowledge_standins import HashingEmbedder, index, many
def before(call):
    if call == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
index(Path(sys.argv[2]), many(200), embedder=HashingEmbedder(before=before))
"""


@pytest.mark.parametrize("call", [0, 1, 3])
def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path, call: int) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "killed"), str(call)]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    embedder = HashingEmbedder()
    again = index(tmp_path / "again", many(200), embedder=embedder, checkpoints=tmp_path / "killed" / "checkpoints")
    assert len(embedder.calls) == 4 - call, "what was committed is not embedded again"
    assert content(again.output) == content(index(tmp_path / "whole", many(200)).output)


def test_interrupted_it_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: FolderStep, done: float, total: float, **_: Any) -> None:
        if done >= 64:
            raise Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(FolderStep, "progress", stop)
        with pytest.raises(Interrupted):
            index(tmp_path / "1", many(130))
    embedder = HashingEmbedder()
    index(tmp_path / "2", many(130), embedder=embedder, checkpoints=tmp_path / "1" / "checkpoints")
    assert len(embedder.calls) == 2


def test_bad_lines_are_told_with_their_place(tmp_path: Path) -> None:
    good = document("a", "text")
    for at, (row, why) in enumerate(
        (
            ("{", "no JSON"),
            ("[1]", "object"),
            ({"id": "b"}, "needs an id and a text"),
            ({"id": "", "text": "x"}, "needs an id"),
            ({"id": "b", "text": 3}, "text has to be a string"),
            ({"id": "b", "text": "x", "metadata": []}, "metadata has to be an object"),
            ({"id": "b", "text": "x", "metadata": {"a": {}}}, "metadata.a has to be a string"),
            ({"id": "b", "text": "x", "metadata": {"a": [None]}}, "metadata.a has to be a string"),
            ('{"id": "b", "text": "x", "metadata": {"a": NaN}}', "metadata.a has to be a string"),
            ({"id": "b", "text": "x", "pages": [1]}, "begin at 0"),
            ({"id": "b", "text": "x", "pages": [0, 5]}, "offsets"),
            ({"id": "b", "text": "xxxx", "pages": [0, 3, 2]}, "ascend"),
            (good, "line 1's already"),
        )
    ):
        with pytest.raises(DataError, match=why) as caught:
            index(tmp_path / str(at), [good, row])
        assert str(caught.value.where).endswith("corpus.jsonl:2")
    with pytest.raises(DataError, match="no document with text"):
        index(tmp_path / "empty", [document("a", " \n")])
    with pytest.raises(DataError, match="cannot read"):
        SqliteIndexer().index(
            FolderStep(tmp_path / "none", HashingEmbedder()),  # type: ignore[arg-type]
            corpus(tmp_path / "x", []).__class__("text/corpus", tmp_path / "nowhere", "0"),
        )


def test_odd_documents_are_harmless(tmp_path: Path) -> None:
    odd = "a\x00b \ud800 '; DROP TABLE documents; -- \x1b[31m <script> \U0001f600 " + "nested " * 2000 + ">" * 3000
    step = index(
        tmp_path, [document("odd", odd, 'T"itle'), document("blank", ""), document("../../x", "Path-like id.")]
    )
    base = opened(step.output)
    clean = odd.replace("\ud800", "\ufffd")
    hits = [hit for hit in base.search("DROP TABLE documents nested", 50) if hit.document == "odd"]
    assert len(hits) > 5
    assert all(clean[hit.start : hit.end] == hit.text for hit in hits)
    assert step.facts["skipped"] == ["blank"]
    assert "blank" in step.notices[0]


def test_opens_from_a_read_only_folder_and_damaged_index(tmp_path: Path) -> None:
    step = index(tmp_path, many(40))
    folder = step.output
    store = ExactStore()
    assert opened(folder, store).search("item3", 1)[0].document == "doc-3"
    assert store.opened == [True], "the index made by the step is used as it is"
    (folder / "index" / "exact.json").unlink()
    for path in (folder, folder / "index"):
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)

    class Unwritable(ExactStore):
        def flush(self, *, generation: int) -> None:
            raise ResourceError("cannot write the vector index")

    try:
        base = opened(folder, Unwritable())
        assert base.search("item3", 1)[0].document == "doc-3"
        assert sorted(path.name for path in folder.iterdir()) == ["index", DATABASE]
    finally:
        for path in (folder, folder / "index"):
            path.chmod(stat.S_IRWXU)


def test_refuses_another_embedder_and_what_is_no_knowledge_base(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe's embedder is other@2") as caught:
        opened(shop, embedder=HashingEmbedder("other@2"))
    assert "inhouse run" in str(caught.value.hint)
    assert opened(shop, embedder=HashingEmbedder("other@2"), dense_weight=0).search("boots")
    with pytest.raises(ArtifactError, match="there is no"):
        opened(tmp_path)
    for at, damaged in enumerate((b"", b"text" * 500, content(shop)[:3000], content(shop)[:4096] + b"\xff" * 90_000)):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / DATABASE).write_bytes(damaged)
        with pytest.raises(ArtifactError):
            opened(folder).search("boots")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / DATABASE).write_bytes(content(shop))
    with sqlite3.connect(newer / DATABASE) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ArtifactError, match="format 99"):
        opened(newer)


def test_an_embedder_that_breaks_its_word_is_named(tmp_path: Path) -> None:
    class Broken(HashingEmbedder):
        def embed(self, texts: Any) -> Any:
            return np.full((len(texts), DIMENSION), np.nan)

    with pytest.raises(PluginError, match="hashing@1 gave no 3 finite vectors"):
        index(tmp_path / "nan", SHOP, embedder=Broken())
    short = HashingEmbedder()
    short.dimension = 3
    with pytest.raises(PluginError):
        index(tmp_path / "short", SHOP, embedder=short)


def test_a_second_writer_gets_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inhouse_knowledge.writer.BUSY_SECONDS", 0.05)
    first = index(tmp_path / "1", SHOP)
    other = sqlite3.connect(first.checkpoints / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ResourceError, match="another process is writing"):
        index(tmp_path / "2", [*SHOP, document("new", "New.")], checkpoints=first.checkpoints)
    other.execute("ROLLBACK")
    other.close()
    index(tmp_path / "3", [*SHOP, document("new", "New.")], checkpoints=first.checkpoints)


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    base = opened(index(tmp_path, many(100)).output)
    alone = [base.search(f"about item{at}", 5) for at in range(100)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda at: base.search(f"about item{at}", 5), range(100))) == alone
    base.close()


def test_uses_the_embedders_token_count_and_warns_beyond_its_length(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    embedder.count_tokens = len  # type: ignore[attr-defined]
    embedder.max_tokens = 64  # type: ignore[attr-defined]
    step = index(tmp_path, [document("a", "Some words here. " * 40)], Options(chunk_tokens=100), embedder=embedder)
    assert max(len(text) for call in embedder.calls for text in call) <= 100 + len("A\n")
    assert "reads 64 tokens" in step.notices[0]


def test_with_hnswlib(tmp_path: Path) -> None:
    from inhouse_hnswlib import Options as Graph
    from inhouse_hnswlib.store import HnswlibStore

    def store() -> HnswlibStore:
        return HnswlibStore(Graph(exact_below=0))

    step = index(tmp_path, many(300), store=store())
    graph, exact = opened(step.output, store()), opened(step.output)
    for at in range(0, 300, 25):
        one, other = (base.search(f"about item{at}", 3) for base in (graph, exact))
        assert [hit.document for hit in one] == [hit.document for hit in other]
    next((step.output / "index").glob("*.bin")).write_bytes(b"damaged")
    assert opened(step.output, store()).search("item3", 1)[0].document == "doc-3"
    graph.close()


def test_with_the_real_embedder(tmp_path: Path) -> None:
    embedder = pytest.importorskip("inhouse_minilm.embedder").MiniLM()
    if embedder.probe():
        pytest.skip(str(embedder.probe()))
    base = opened(index(tmp_path, SHOP, embedder=embedder).output, embedder=embedder)
    assert base.search("Can I send something back that I did not wear?", 1)[0].document == "returns"
