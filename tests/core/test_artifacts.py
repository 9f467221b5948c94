"""The store: whole or not at all, whenever it is killed; what is damaged is made again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inhouse.artifacts import Manifest, Store, file_digest, fingerprint, tree_bytes, tree_digest, write_text
from inhouse.errors import ArtifactError

KEY = "k" * 64


def unsealed(key: str = KEY) -> Manifest:
    return Manifest(key, "quantize", "quantizer", "gguf", "inhouse-gguf 1", 1, {}, 0, (), 1.0, 0, {"bits": 4})


def make(store: Store, key: str = KEY, text: str = "weights") -> Manifest:
    outputs, _ = store.begin(key, ["model/gguf", "report"])
    (outputs["model/gguf"] / "deep").mkdir()
    (outputs["model/gguf"] / "deep" / "model.gguf").write_text(text)
    (outputs["report"] / "report.json").write_text("{}")
    return store.commit(unsealed(key), outputs)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_what_is_committed_is_found(store: Store) -> None:
    assert store.find(KEY) is None
    manifest = make(store)
    assert store.find(KEY) == manifest
    model, report = store.artifacts(manifest)
    assert (model.kind, report.kind, model.step, model.meta) == ("model/gguf", "report", "quantize", {"bits": 4})
    assert (model.path / "deep" / "model.gguf").read_text() == "weights"
    assert store.all() == [manifest]
    assert store.verify(manifest) == []
    assert not (store.home / "work" / KEY).exists()


def test_a_product_has_the_digest_of_its_folder(store: Store) -> None:
    model, _ = store.artifacts(make(store))
    assert model.digest == tree_digest(model.path)
    assert tree_bytes(model.path) == len("weights")


def test_equal_bytes_have_equal_digests_and_others_not(store: Store) -> None:
    digests = [store.artifacts(make(store, key * 64, text))[0].digest for key, text in ("ax", "bx", "cy")]
    assert digests[0] == digests[1] != digests[2]


def test_a_step_that_wrote_nothing_is_refused(store: Store) -> None:
    outputs, _ = store.begin(KEY, ["model/gguf"])
    with pytest.raises(ArtifactError, match="wrote nothing for model/gguf"):
        store.commit(unsealed(), outputs)
    assert store.find(KEY) is None


def test_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    outputs, _ = store.begin(KEY, ["model/gguf"])
    (outputs["model/gguf"] / "model.gguf").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.commit(unsealed(), outputs)


@pytest.mark.parametrize("damage", ["missing", "short", "no manifest", "manifest cut", "manifest of another kind"])
def test_damaged_entries_are_made_again(store: Store, damage: str) -> None:
    folder = store.artifacts(make(store))[0].path
    manifest = folder.parent / "manifest.json"
    if damage == "missing":
        (folder / "deep" / "model.gguf").unlink()
    elif damage == "short":
        (folder / "deep" / "model.gguf").write_text("weig")
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:50])
    else:
        manifest.write_text('{"version": 99}')
    assert store.find(KEY) is None
    assert store.all() == []
    assert store.verify(make(store)) == []


def test_verify_finds_a_changed_byte(store: Store) -> None:
    manifest = make(store)
    (store.artifacts(manifest)[0].path / "deep" / "model.gguf").write_text("wEights")
    assert store.verify(manifest) == ["model-gguf/deep/model.gguf"]


def test_a_stray_file_in_the_store_is_no_artifact(store: Store) -> None:
    manifest = make(store)
    (store.home / "artifacts" / ".DS_Store").touch()
    assert store.all() == [manifest]


def test_checkpoints_survive_and_outputs_do_not(store: Store) -> None:
    outputs, checkpoints = store.begin(KEY, ["model/hf"])
    assert not store.resumable(KEY)
    (checkpoints / "state").write_text("1")
    (outputs["model/hf"] / "half").write_text("1")
    assert store.resumable(KEY)
    outputs, checkpoints = store.begin(KEY, ["model/hf"])
    assert (checkpoints / "state").read_text() == "1"
    assert list(outputs["model/hf"].iterdir()) == []


def test_the_lock_lets_one_in(store: Store) -> None:
    inside, waited = threading.Event(), []

    def second() -> None:
        with Store(store.home).lock(KEY, waited.append):
            inside.set()

    thread = threading.Thread(target=second)
    with store.lock(KEY), store.lock("other"):
        thread.start()
        while not waited:
            time.sleep(0.01)
        assert not inside.is_set()
    thread.join()
    assert inside.is_set()
    assert waited[0] == 0


def test_waiting_for_the_lock_can_be_given_up(store: Store) -> None:
    def give_up(times: int) -> None:
        raise KeyboardInterrupt

    with store.lock(KEY), pytest.raises(KeyboardInterrupt), Store(store.home).lock(KEY, give_up):
        pass


def test_what_is_removed_is_gone_and_the_rest_stays(store: Store) -> None:
    make(store)
    other = make(store, "o" * 64)
    _, checkpoints = store.begin(KEY, ["model/gguf"])
    (checkpoints / "state").write_text("1")
    store.remove(KEY)
    assert store.find(KEY) is None
    assert not store.resumable(KEY)
    assert [each.name for each in (store.home / "artifacts").iterdir()] == ["o" * 64]
    assert list((store.home / "work").iterdir()) == []
    assert store.verify(other) == []
    store.remove(KEY)  # nothing there: nothing to do
    assert store.verify(make(store)) == []


def test_removing_waits_for_the_run_that_is_at_it(store: Store) -> None:
    make(store)
    thread = threading.Thread(target=Store(store.home).remove, args=(KEY,))
    with store.lock(KEY):
        thread.start()
        thread.join(0.3)
        assert store.find(KEY) is not None
    thread.join()
    assert store.find(KEY) is None


@pytest.mark.parametrize("key", ["", ".", "..", "../artifacts", "a/b"])
def test_only_a_fingerprint_is_removed(store: Store, key: str) -> None:
    manifest = make(store)
    with pytest.raises(ArtifactError, match="is no fingerprint"):
        store.remove(key)
    assert store.all() == [manifest]


CHILD = """
import sys
from pathlib import Path
from inhouse.artifacts import Manifest, Store
key, files = "k" * 64, 40
store = Store(Path(sys.argv[1]))
outputs, _ = store.begin(key, ["model/gguf"])
for number in range(files):
    (outputs["model/gguf"] / f"{number}.bin").write_bytes(bytes([number]) * 20_000)
print("ready", flush=True)
store.commit(Manifest(key, "s", "quantizer", "g", "p 1", 1, {}, 0, (), 1.0, 0), outputs)
print("done", flush=True)
"""


def test_killed_at_any_point_of_a_commit_the_store_is_without_it_or_with_the_whole(tmp_path: Path) -> None:
    """SIGKILL at random points, again and again over what the last kill left; the disk itself is not cut off."""
    store, seen = Store(tmp_path), {"without": 0, "whole": 0}
    rng = random.Random(7)
    for _ in range(25):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.12))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        manifest = store.find(KEY)
        if manifest is None:
            seen["without"] += 1
            assert not (tmp_path / "artifacts" / KEY).exists()
        else:
            seen["whole"] += 1
            assert len(manifest.products[0].files) == 40
            assert store.verify(manifest) == []
            shutil.rmtree(tmp_path / "artifacts")
    assert seen["without"], seen


def test_texts_are_written_aside(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "one")
    write_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_fingerprints_do_not_depend_on_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tree_digest(tmp_path / "a") == file_digest(tmp_path / "a")
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"a name that is no UTF-8")
    assert tree_digest(tmp_path)


def test_the_manifest_is_readable_json(store: Store) -> None:
    folder = store.artifacts(make(store))[0].path.parent
    assert json.loads((folder / "manifest.json").read_text())["step"] == "quantize"
