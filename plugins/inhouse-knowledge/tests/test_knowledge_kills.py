"""Killed at any point of making a base and making it again: what was committed is there, and nothing is half there."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from knowledge_standins import edited, index, many, opened

from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.indexer import DATABASE
from inhouse_knowledge.writer import Writer
from support.killed import Killed, killed

INGESTS = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from knowledge_standins import edited, index, many
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.writer import Writer

def telling(change, path):
    def changed(writer, what):
        change(writer, what)
        with path.open("a") as file:
            file.write(json.dumps(writer.digests()) + "\\n")
    return changed

def work(folder):
    Writer.put, Writer.remove = (telling(each, folder / "committed") for each in (Writer.put, Writer.remove))
    index(folder / "first", many(150), store=HnswlibStore(), checkpoints=folder / "checkpoints")
    index(folder / "second", edited(many(150)), store=HnswlibStore(), checkpoints=folder / "checkpoints")
"""
STAGES = {"first": many(150), "second": edited(many(150))}
SEED = 23


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Killed]]:
    """What a run left that was not killed, and what fifty others did."""
    folder = tmp_path_factory.mktemp("killed")
    deaths = killed(INGESTS, folder, points=50, seed=SEED)
    return folder / "whole", deaths


def test_a_run_that_is_not_killed_finds_every_document(runs: tuple[Path, list[Killed]]) -> None:
    whole, _ = runs
    for stage, rows in STAGES.items():
        base = opened(whole / stage / "output", HnswlibStore())
        assert {each.document for each in base.documents()} == {row["id"] for row in rows}
        for row in rows:
            assert base.search(row["text"][:40], 1)[0].document == row["id"]
        base.close()


def test_every_committed_document_is_whole_and_found(runs: tuple[Path, list[Killed]]) -> None:
    whole, deaths = runs
    states = [{}, *committed(whole)]
    right = {one.digest: one for stage in STAGES for one in kept(whole / stage / "output").values()}
    reached = set()
    for death in deaths:
        told = len(committed(death.folder))
        copy = shutil.copytree(death.folder / "checkpoints", death.folder / "copy", dirs_exist_ok=True)
        found = kept(Path(copy))
        assert {name: one.digest for name, one in found.items()} in states[told : told + 2], death
        assert all(one == right[one.digest] for one in found.values()), death
        reached.add(told)
    assert len(reached) > 5, "kills around every transaction"


def test_what_was_handed_over_before_stays_and_the_next_run_ends_with_the_same_bytes(
    runs: tuple[Path, list[Killed]], tmp_path: Path
) -> None:
    whole, deaths = runs
    for death in deaths:
        begun = [stage for stage in STAGES if (death.folder / stage).exists()]
        for stage in begun[:-1]:
            assert files(death.folder / stage / "output") == files(whole / stage / "output"), death
        if begun and (death.folder / begun[-1] / "output" / DATABASE).exists():
            base = opened(death.folder / begun[-1] / "output", HnswlibStore())
            assert base.search("item7", 1)[0].document == "doc-7", death
            base.close()
        for stage in [*begun[-1:], *list(STAGES)[len(begun) :]]:
            place, checkpoints = tmp_path / str(death.call) / stage, death.folder / "checkpoints"
            again = index(place, STAGES[stage], store=HnswlibStore(), checkpoints=checkpoints)
            assert files(again.output) == files(whole / stage / "output"), death


BEGINS = """
from inhouse_knowledge.writer import Writer

def work(folder):
    Writer(folder / "knowledge.sqlite", {"embedder": "hashing@1", "dimension": 64}).close()
"""


def test_killed_at_each_point_of_its_first_moment_a_file_is_begun_again(tmp_path: Path) -> None:
    """All points: few are dangerous."""
    for death in killed(BEGINS, tmp_path, points=1000, seed=SEED):
        with Writer(death.folder / DATABASE, {"embedder": "hashing@1", "dimension": 64}) as writer:
            writer.put([])
            assert writer.digests() == {}


@frozen
class Kept:
    """A document of a file: its digest, and its passages with their vectors."""

    digest: str
    passages: tuple[tuple[Any, ...], ...]


def kept(folder: Path) -> dict[str, Kept]:
    """The documents of the file in ``folder`` by name, each found by its own word; none without a file or tables."""
    with closing(sqlite3.connect(folder / DATABASE)) as file:
        if not file.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return {}
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
        file.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        rows = file.execute("SELECT id, name, digest, text FROM documents").fetchall()
        own = 'SELECT number, title, text, "start", "end", vector FROM chunks JOIN vectors ON chunk = id WHERE document = ?'
        match = "SELECT DISTINCT document FROM chunks JOIN words ON words.rowid = chunks.id WHERE words MATCH ?"
        for key, *_, text in rows:
            assert file.execute(match, [own_word(text)]).fetchall() == [(key,)]
        return {name: Kept(digest, tuple(file.execute(own, [key]))) for key, name, digest, _ in rows}


def own_word(text: str) -> str:
    """The word of a document that no other has."""
    found = re.search(r"(item|another)\d+", text)
    assert found
    return found[0]


def committed(folder: Path) -> list[dict[str, str]]:
    """The digests by name after each transaction that was told; the last line may be half there."""
    path = folder / "committed"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
