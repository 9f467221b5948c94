"""A full disk, damaged files, two at once: refused or made again, and what was there before stays."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from knowledge_standins import HashingEmbedder, document, index, many, opened

from inhouse.errors import ArtifactError, ResourceError
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.indexer import DATABASE, SqliteIndexer
from inhouse_vectors.exact import ExactStore
from support.small_disk import on_a_small_disk

FULL = f"""
import shutil, sqlite3
from contextlib import closing
sys.path.insert(0, {str(Path(__file__).parent)!r})
from knowledge_standins import FolderStep, HashingEmbedder, corpus, edited, many, opened
from inhouse.errors import ResourceError
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.indexer import SqliteIndexer

STEP = 48 * 1024
sources = {{name: corpus(disk.parent / name, rows) for name, rows in (("old", many(60)), ("new", edited(many(150))))}}

def made(name, root, checkpoints=None, embedder=None):
    step = FolderStep(root, embedder or HashingEmbedder(), HnswlibStore(), checkpoints)
    SqliteIndexer().index(step, sources[name])
    return step.output

def files(folder):
    return {{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}}

def committed():
    with closing(sqlite3.connect(disk / "new" / "checkpoints" / "knowledge.sqlite")) as file:
        there = file.execute("SELECT name FROM sqlite_schema WHERE name = 'documents'").fetchall()
        return {{title for title, in file.execute("SELECT title FROM documents")}} if there else set()

old = made("old", disk / "old")
before, whole = files(old), files(made("new", disk.parent / "whole"))
errors = []
while True:
    leave(STEP * len(errors))
    try:
        assert files(made("new", disk / "new")) == whole
        break
    except ResourceError as error:
        errors.append(error)
    assert files(disk / "new" / "output").items() <= whole.items(), files(disk / "new" / "output").keys()
    assert files(old) == before
    leave(2 << 20)
    kept, embedder = committed(), HashingEmbedder()
    leave(0)
    try:
        made("new", disk / "again", disk / "new" / "checkpoints", embedder)
        raise AssertionError("wrote on a full disk")
    except ResourceError:
        shutil.rmtree(disk / "again")
    again = {{text.partition("\\n")[0] for call in embedder.calls for text in call}}
    assert not kept & again, "a full disk is no reason to throw away what is committed"
    base = opened(old, HnswlibStore())
    assert base.search("item7", 1)[0].document == "doc-7"
    base.close()
    leave(2 << 20)
    assert files(made("new", disk / "again", disk / "new" / "checkpoints")) == whole
    for name in ("new", "again"):
        shutil.rmtree(disk / name)
assert len(errors) > 10
assert all("free some space" in error.hint for error in errors)
"""


def test_on_a_full_disk_nothing_is_half_there(tmp_path: Path) -> None:
    """Full at each 48 kB of what a run writes; the next run goes on with what is committed, to the same bytes."""
    on_a_small_disk(FULL, tmp_path / "disk", megabytes=8)


SLOW = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from knowledge_standins import HashingEmbedder, index, many

def before(call):
    if call == 1:
        print("one group is committed", flush=True)
        input()

folder = Path(sys.argv[1])
index(folder / "first", many(150), checkpoints=folder / "checkpoints", embedder=HashingEmbedder(before=before))
"""


def test_of_two_processes_that_write_the_second_waits_or_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    first.stdout.readline()
    with monkeypatch.context() as hurried, pytest.raises(ResourceError, match="another process is writing") as caught:
        hurried.setattr("inhouse_knowledge.writer.BUSY_SECONDS", 0.1)
        index(tmp_path / "told", many(150), checkpoints=tmp_path / "checkpoints")
    assert "wait for it to end" in str(caught.value.hint)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(index, tmp_path / "second", many(150), checkpoints=tmp_path / "checkpoints")
        while not (tmp_path / "second" / "source" / "corpus.jsonl").exists():
            time.sleep(0.01)
        first.communicate("\n")
        assert first.returncode == 0
        assert second.result().facts["documents"] == 150
    whole = index(tmp_path / "whole", many(150)).output
    for each in ("first", "second"):
        assert (tmp_path / each / "output" / DATABASE).read_bytes() == (whole / DATABASE).read_bytes()


ROWS = [{**row, "metadata": {"group": at % 3}, "pages": [0, 3]} for at, row in enumerate(many(30))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index(tmp_path_factory.mktemp("base"), ROWS, store=ExactStore()).output.parent


def flipped(content: bytes, at: int) -> bytes:
    """With bit ``at`` the other way."""
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


def wrong(folder: Path) -> list[str]:
    """What doctor finds wrong."""
    checks = SqliteIndexer().examine(folder, {"vector_store": ExactStore()}, mend=False)
    return [each.name for each in checks if each.state == "wrong"]


def used(folder: Path) -> None:
    """Everything that a base is asked. Raises ``ArtifactError`` when it is refused."""
    found = opened(folder, ExactStore())
    try:
        found.search("item7", 50)
        found.search("about thing3", 50, where={"group": 1})
        found.documents()
    finally:
        found.close()


def test_a_flipped_bit_of_a_base_is_refused_or_does_no_harm(base: Path, tmp_path: Path) -> None:
    """Whatever is refused, doctor finds wrong; no other error comes. A run takes no harm from it either."""
    content = (base / "output" / DATABASE).read_bytes()
    drawn, refusals = Random(31), 0
    for number in range(120):
        at = drawn.randrange(8 * len(content))
        (tmp_path / DATABASE).write_bytes(flipped(content, at))
        found = wrong(tmp_path)
        try:
            used(tmp_path)
        except ArtifactError as error:
            refusals += 1
            assert found, at
            assert error.hint, at
        if number % 3 == 0:
            after = index(tmp_path / str(number), ROWS, store=ExactStore(), before=[tmp_path]).output
            assert (after / DATABASE).read_bytes() == content, at
    assert refusals


def test_a_damaged_working_file_is_begun_again(base: Path, tmp_path: Path) -> None:
    """Or the base that comes of it is sound: vectors in a working file have no checksum."""
    content = (base / "checkpoints" / DATABASE).read_bytes()
    whole = (base / "output" / DATABASE).read_bytes()
    drawn = Random(37)
    damages = {str(at): flipped(content, at) for at in drawn.sample(range(8 * len(content)), 40)}
    damages |= {"empty": b"", "short": content[:-5000], "half": content[: len(content) // 2]}
    damages |= {name: content.replace(old, new) for name, (old, new) in SPOILT.items()}
    for name, damaged in damages.items():
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / DATABASE).write_bytes(damaged)
        assert damaged != content, name
        again = index(tmp_path / name, ROWS, store=ExactStore()).output
        assert (again / DATABASE).read_bytes() == whole or (name.isdecimal() and not wrong(again)), name


SPOILT = {
    "a document": (b"About item7 and", b"About item8 and"),
    "text that is none": (b"About item15 and", b"About\xffitem15 and"),
    "pages that are none": (b"[0, 3]", b"[0. 3]"),
    "a title": (b"Doc-3", b"Dot-3"),
}


def test_all_documents_go_and_come_back(tmp_path: Path) -> None:
    """Each is found once, as in a base that never lost it, and no vector answers for a passage of before."""
    checkpoints = tmp_path / "checkpoints"
    others = [document(f"other-{at}", f"Of matter{at}.") for at in range(70)]
    for at, rows in enumerate((many(70), others, [*others[:3], *many(70)])):
        step = index(tmp_path / str(at), rows, store=HnswlibStore(), checkpoints=checkpoints)
        found = opened(step.output, HnswlibStore())
        hits = found.search("about thing3", 1000)
        assert {hit.document for hit in hits} == {row["id"] for row in rows}
        assert len(hits) == found.count()
        found.close()
    fresh = opened(index(tmp_path / "fresh", [*others[:3], *many(70)], store=HnswlibStore()).output, HnswlibStore())
    again = opened(tmp_path / "2" / "output", HnswlibStore())
    for query in ("item3 and thing3", "matter2", "about item69"):
        assert [(hit.document, hit.chunk, hit.score) for hit in again.search(query, 5)] == [
            (hit.document, hit.chunk, hit.score) for hit in fresh.search(query, 5)
        ]
    fresh.close()
    again.close()


SHOP = [
    document("returns", "Unused items can be returned within 45 days of delivery."),
    document("boots", "Boots have a warranty of 18 months on the sole."),
    document("tents", "Tents have a warranty of 3 years on the poles."),
]


@pytest.mark.parametrize("wrong", ["embedder", "vector", "file", "page", "title", "text", "version", "gone"])
def test_an_earlier_base_that_does_not_fit_is_passed_over(tmp_path: Path, wrong: str) -> None:
    name = "other@2" if wrong == "embedder" else "hashing@1"
    good = index(tmp_path / "good", SHOP[:2])
    bad = index(tmp_path / "bad", SHOP, embedder=HashingEmbedder(name)).output
    with closing(sqlite3.connect(bad / DATABASE)) as base, base:
        if wrong == "vector":
            base.execute("UPDATE vectors SET vector = zeroblob(256) WHERE chunk = 2")
        if wrong == "version":
            base.execute("PRAGMA user_version = 1")
        if wrong == "title":
            base.execute("UPDATE chunks SET title = x'ff'")
        if wrong == "text":
            base.execute("UPDATE chunks SET text = CAST(x'ff' AS TEXT)")
        (page,) = base.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'vectors'").fetchone()
    if wrong == "page":
        whole = (bad / DATABASE).read_bytes()
        (bad / DATABASE).write_bytes(whole[: (page - 1) * 4096] + b"\xff" * 4096 + whole[page * 4096 :])
    if wrong == "file":
        (bad / DATABASE).write_bytes(b"damaged" * 1000)
    if wrong == "gone":
        (bad / DATABASE).unlink()
    embedder = HashingEmbedder()
    step = index(tmp_path / "2", SHOP, embedder=embedder, before=[bad, good.output])
    assert [text for call in embedder.calls for text in call] == [f"Tents\n{SHOP[2]['text']}"]
    assert (step.output / DATABASE).read_bytes() == (index(tmp_path / "3", SHOP).output / DATABASE).read_bytes()
