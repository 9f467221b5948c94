"""A bundle is put where its owner uses it, and what the owner changed is never lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from inhouse.artifacts import tree_digest
from inhouse.values import Artifact
from inhouse_bundle.deploy import deploy


def bundle(tmp_path: Path, text: str) -> Artifact:
    folder = tmp_path / "store" / text
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "model.txt").write_text(text)
    return Artifact("bundle", folder, tree_digest(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles" / "desk"


def shown(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.parent.iterdir() if not each.name.startswith("."))


def test_a_new_bundle_takes_the_place_of_an_unchanged_one(tmp_path: Path, folder: Path) -> None:
    said: list[str] = []
    for text in ("q4", "q4", "q8"):
        assert deploy(bundle(tmp_path, text), folder, said.append) == folder
        assert (folder / "model" / "model.txt").read_text() == text
    assert shown(folder) == ["desk"]
    assert said == []


def test_a_bundle_that_its_owner_changed_is_kept(tmp_path: Path, folder: Path) -> None:
    said: list[str] = []
    deploy(bundle(tmp_path, "q4"), folder, said.append)
    (folder / "note.txt").write_text("mine")
    deploy(bundle(tmp_path, "q4"), folder, said.append)
    assert (folder / "note.txt").exists()
    assert said == []
    deploy(bundle(tmp_path, "q2"), folder, said.append)
    (kept,) = folder.parent.glob("desk.*")
    assert (kept / "note.txt").read_text() == "mine"
    assert (kept / "model" / "model.txt").read_text() == "q4"
    assert not (folder / "note.txt").exists()
    assert (folder / "model" / "model.txt").read_text() == "q2"
    assert [kept.name in each for each in said] == [True]


def test_what_was_kept_once_is_never_touched_again(tmp_path: Path, folder: Path) -> None:
    for text in ("q4", "q2", "q4", "q8"):  # the owner writes the same note into both q4
        deploy(bundle(tmp_path, text), folder, lambda _: None)
        if text == "q4":
            (folder / "note.txt").write_text("mine")
        for kept in folder.parent.glob("desk.*"):
            (kept / "later.txt").touch()
    assert [(each / "note.txt").read_text() for each in folder.parent.glob("desk.*")] == ["mine", "mine"]
    assert all((each / "later.txt").exists() for each in folder.parent.glob("desk.*"))


def test_a_folder_that_was_never_ours_is_kept(tmp_path: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    deploy(bundle(tmp_path, "q4"), folder, lambda _: None)
    (kept,) = folder.parent.glob("desk.*")
    assert (kept / "note.txt").read_text() == "mine"


@pytest.mark.parametrize("mark", ["of the bundle before", None])
def test_killed_before_it_was_marked_sets_nothing_aside(tmp_path: Path, folder: Path, mark: str | None) -> None:
    deploy(bundle(tmp_path, "q4"), folder, pytest.fail)
    place = folder.with_name(".desk.digest")
    place.write_text(mark) if mark else place.unlink()
    deploy(bundle(tmp_path, "q4"), folder, pytest.fail)
    assert shown(folder) == ["desk"]


def test_killed_between_the_two_renames_puts_the_new_one_in_place(tmp_path: Path, folder: Path) -> None:
    deploy(bundle(tmp_path, "q4"), folder, pytest.fail)
    folder.rename(folder.with_name(".desk.old"))
    bundle(tmp_path, "q8").path.rename(folder.with_name(".desk.new"))
    deploy(bundle(tmp_path, "q8"), folder, pytest.fail)
    assert (folder / "model" / "model.txt").read_text() == "q8"
    assert shown(folder) == ["desk"]
