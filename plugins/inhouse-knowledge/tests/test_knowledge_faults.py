"""A full disk, damaged files, two at once: refused or made again, and what was there before stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from knowledge_standins import index, many

from inhouse.errors import ResourceError
from inhouse_knowledge.indexer import DATABASE
from support.small_disk import on_a_small_disk

FULL = f"""
import shutil
sys.path.insert(0, {str(Path(__file__).parent)!r})
from knowledge_standins import FolderStep, HashingEmbedder, corpus, edited, many, opened
from inhouse.errors import ResourceError
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.indexer import SqliteIndexer

STEP = 48 * 1024
sources = {{name: corpus(disk.parent / name, rows) for name, rows in (("old", many(60)), ("new", edited(many(150))))}}

def made(name, root, checkpoints=None):
    step = FolderStep(root, HashingEmbedder(), HnswlibStore(), checkpoints)
    SqliteIndexer().index(step, sources[name])
    return step.output

def files(folder):
    return {{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}}

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
    base = opened(old, HnswlibStore())
    assert base.search("item7", 1)[0].document == "doc-7"
    base.close()
    leave(2 << 20)
    assert files(made("new", disk / "again", disk / "new" / "checkpoints")) == whole
    for name in ("new", "again"):
        shutil.rmtree(disk / name)
assert len(errors) > 10
print({{(error.message, error.hint) for error in errors}})
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
