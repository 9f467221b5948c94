"""Killed, out of space, two at once: what was written last is there whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

from inhouse_hnswlib import Options
from inhouse_hnswlib.store import HnswlibStore
from support.killed import killed
from support.small_disk import on_a_small_disk

DIMENSION = 16

SAVES = """
import json
import numpy as np
from inhouse_hnswlib import Options
from inhouse_hnswlib.store import HnswlibStore

vectors = np.random.default_rng(0).normal(size=(600, 16))

def kept(store, folder, generation, left):
    store.flush(generation=generation)
    with (folder / "kept").open("a") as file:
        file.write(json.dumps(left) + "\\n")

def work(folder):
    store = HnswlibStore(Options(exact_below=0))
    store.open(folder / "index", dimension=16, generation=1)
    store.rebuild(range(1, 401), vectors[:400], generation=1)
    kept(store, folder, 1, list(range(1, 401)))
    store.add(range(401, 601), vectors[400:])
    kept(store, folder, 2, list(range(1, 601)))
    store.delete(range(1, 101))
    kept(store, folder, 3, list(range(101, 601)))
    store.delete(range(101, 201))  # more than a fifth: compacted
    kept(store, folder, 4, list(range(201, 601)))
    store.add(range(1, 101), vectors[:100])
    kept(store, folder, 5, [*range(1, 101), *range(201, 601)])
"""


def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(600, DIMENSION))


def test_killed_in_saving_and_compacting_one_whole_index_is_there(tmp_path: Path) -> None:
    """The one that was kept last, or the one that was being written."""
    deaths = killed(SAVES, tmp_path, points=50, seed=11)
    whole = [json.loads(line) for line in (tmp_path / "whole" / "kept").read_text().splitlines()]
    assert len(deaths) == 50
    for death in deaths:
        told = death.folder / "kept"
        last = told.read_text().count("\n") if told.exists() else 0
        opened = {each: store for each in range(1, 6) if (store := reopened(death.folder / "index", each))}
        assert len(opened) == 1 or (last, opened) == (0, {}), death
        for generation, store in opened.items():
            assert generation in (last, last + 1), death
            assert holds(store, whole[generation - 1]), death
        store = HnswlibStore(Options(exact_below=0))
        store.open(death.folder / "index", dimension=DIMENSION, generation=last)
        store.rebuild(range(1, 601), vectors(), generation=9)
        assert reopened(death.folder / "index", 9), death
        assert len(list((death.folder / "index").iterdir())) == 2, "what the killed process left is swept away"


def reopened(folder: Path, generation: int) -> HnswlibStore | None:
    store = HnswlibStore(Options(exact_below=0))
    return store if store.open(folder, dimension=DIMENSION, generation=generation) else None


def holds(store: HnswlibStore, ids: list[int]) -> bool:
    """Whether it finds these vectors and no others."""
    everything = [key for key, _ in store.search(np.ones(DIMENSION), 1000)]
    each = [store.search(vectors()[key - 1], 1)[0][0] for key in ids[::25]]
    return store.count() == len(ids) and sorted(everything) == ids and each == ids[::25]


FULL = """
import numpy as np
from inhouse.errors import ResourceError
from inhouse_hnswlib.store import HnswlibStore

vectors = np.random.default_rng(0).normal(size=(400, 16))
index, failed = disk / "index", 0

def opened(generation):
    store = HnswlibStore()
    return store, store.open(index, dimension=16, generation=generation)

store, _ = opened(1)
store.rebuild(range(1, 201), vectors[:200], generation=1)
before = {path.name: path.read_bytes() for path in index.iterdir()}
store.add(range(201, 401), vectors[200:])
while True:
    leave(4096 * failed)
    try:
        store.flush(generation=2)
        break
    except ResourceError as error:
        assert "cannot write the vector index" in error.message and "free some space" in error.hint
    failed += 1
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before, sorted(index.iterdir())
    old, fits = opened(1)
    assert fits and old.count() == 200 and old.search(vectors[7], 1) == [(8, 1.0)]
    assert store.count() == 400 and store.search(vectors[300], 1) == [(301, 1.0)], "memory serves on"
assert failed > 20
assert opened(2)[1] and not opened(1)[1]
assert len(list(index.iterdir())) == 2
"""


def test_on_a_full_disk_the_old_index_stays(tmp_path: Path) -> None:
    """Full at every page of what is written."""
    on_a_small_disk(FULL, tmp_path / "disk", megabytes=2)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from inhouse_hnswlib.store import HnswlibStore
number, folder = int(sys.argv[1]), Path(sys.argv[2])
vectors = np.random.default_rng(number).normal(size=(50, 16))
store = HnswlibStore()
store.open(folder, dimension=16, generation=number)
print(flush=True)
input()
for _ in range(30):
    store.rebuild(range(1, 51), vectors, generation=number)
    assert store.search(vectors[4], 1) == [(5, 1.0)]
"""


def test_two_processes_that_write_one_index(tmp_path: Path) -> None:
    """It is one's, or the other's, or to be made again; nothing is left over."""
    pipe, index = subprocess.PIPE, tmp_path / "index"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(WRITER)]
    writers = [
        subprocess.Popen([*command, str(each), str(index)], env=env, stdin=pipe, stdout=pipe, text=True)
        for each in (1, 2)
    ]
    for each in writers:
        assert each.stdout is not None
        each.stdout.readline()
    for each in writers:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    while any(each.poll() is None for each in writers):
        for generation in (1, 2):
            store = HnswlibStore()
            if store.open(index, dimension=DIMENSION, generation=generation):
                own = np.random.default_rng(generation).normal(size=(50, DIMENSION))
                assert store.search(own[4], 1) == [(5, 1.0)]
    for each in writers:
        each.communicate()
    assert [each.returncode for each in writers] == [0, 0]
    last = HnswlibStore()
    last.open(index, dimension=DIMENSION, generation=3)
    last.rebuild([1], np.ones((1, DIMENSION)), generation=3)
    assert len(list(index.iterdir())) == 2
