"""What ``doctor`` finds wrong with a finished base, and what it mends."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from knowledge_standins import DIMENSION, ExactStore, HashingEmbedder, document, index, many, opened

from inhouse_hnswlib import Options as Graph
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.indexer import DATABASE, SqliteIndexer
from inhouse_vectors.exact import ExactStore as InMemory


def graph() -> HnswlibStore:
    return HnswlibStore(Graph(exact_below=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{**row, "metadata": {"group": at % 3}, "pages": [0]} for at, row in enumerate(many(150))]
    return index(tmp_path, rows, store=graph()).output


def found(folder: Path, store: Any = None, *, mend: bool = False) -> dict[str, tuple[str, str]]:
    checks = SqliteIndexer().examine(folder, {"vector_store": store or graph()}, mend=mend)
    return {each.name: (each.state, each.found) for each in checks}


def wrong(folder: Path, **more: Any) -> list[str]:
    return [name for name, (state, _) in found(folder, **more).items() if state == "wrong"]


def change(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / DATABASE) as connection:
        for each in statements:
            connection.execute(each)
    connection.close()


def test_a_whole_base_is_well(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    checks = found(folder)
    assert list(checks) == ["file", "documents", "passages", "words", "vectors", "index"]
    assert {state for state, _ in checks.values()} == {"ok"}, checks
    assert checks["documents"][1].startswith("150,")
    assert "recall@10 1.000 over 167 searches" in checks["index"][1]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, "it only reads"
    bare = index(tmp_path / "bare", [document("a", "One passage.")], store=InMemory()).output
    assert found(bare, InMemory())["index"] == ("ok", "the store keeps none")
    assert found(index(tmp_path / "few", many(4), store=graph()).output)["index"][0] == "ok"


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE documents SET text = replace(text, 'item3', 'item4') WHERE name = 'doc-3'", ["documents", "passages"]),
        ("UPDATE documents SET title = 'Other' WHERE name = 'doc-3'", ["documents"]),
        ("UPDATE metadata SET value = '7' WHERE document = 3", ["documents"]),
        ("UPDATE documents SET pages = '[]' WHERE name = 'doc-3'", ["documents"]),
        ('UPDATE chunks SET "start" = "start" + 1 WHERE id = 3', ["passages", "vectors"]),
        ("UPDATE chunks SET title = 'Other' WHERE id = 3", ["words", "vectors"]),
        ("UPDATE vectors SET vector = zeroblob(256) WHERE chunk = 3", ["vectors"]),
        ("DELETE FROM vectors WHERE chunk = 3", ["passages", "vectors", "index"]),
        ("INSERT INTO words (words, rowid, title, text) VALUES ('delete', 3, 'Doc-3', 'About')", ["words"]),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, statement: str, names: list[str]) -> None:
    change(folder, statement)
    assert wrong(folder) == names
    assert wrong(folder, mend=True) == [each for each in names if each != "index"], "only an index is made again"


def test_a_damaged_file_ends_the_examination(folder: Path) -> None:
    content = bytearray((folder / DATABASE).read_bytes())
    for at in range(8 * 4096, len(content) - 4096, 4096):
        content[at : at + 64] = b"\xff" * 64
    (folder / DATABASE).write_bytes(content)
    (name, (state, said)), *rest = found(folder).items()
    assert (name, state, rest) == ("file", "wrong", [])
    assert said
    (folder / DATABASE).write_bytes(b"")
    assert list(found(folder)) == ["file"]


def test_an_index_that_is_not_the_bases_is_made_again(folder: Path) -> None:
    whole = {path.name: path.read_bytes() for path in (folder / "index").iterdir()}
    for damage in ("truncated", "gone", "other"):
        target = next((folder / "index").glob("*.bin"))
        if damage == "truncated":
            target.write_bytes(target.read_bytes()[:-7])
        elif damage == "gone":
            target.unlink()
        else:
            store = graph()
            store.open(folder / "index", dimension=DIMENSION, generation=1)
            store.rebuild([1], np.ones((1, DIMENSION), np.float32), generation=1)
        assert found(folder)["index"][0] == "wrong", damage
        assert found(folder, mend=True)["index"][0] == "mended"
        assert found(folder)["index"][0] == "ok"
        assert {path.name: path.read_bytes() for path in (folder / "index").iterdir()} == whole, "the same bytes again"


def test_an_index_that_finds_too_little_is_wrong(folder: Path) -> None:
    class Forgetful(ExactStore):
        def search(self, vector: Any, k: int, *, among: Any = None) -> list[tuple[int, float]]:
            return super().search(vector, k, among=among)[: k // 2]

    step_store = Forgetful()
    base = opened(folder, step_store)
    base.close()
    state, said = found(folder, Forgetful())["index"]
    assert (state, said[:20]) == ("wrong", "163 vectors, recall@") or "recall@10 0.500" in said


def test_an_empty_leg_is_no_reason_to_fail(tmp_path: Path) -> None:
    folder = index(tmp_path, [document("zero", "?!")], embedder=HashingEmbedder(), store=graph()).output
    assert wrong(folder) == []
