"""``reproduce``: the same again, what is not the same, and recipes that are not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packed import rewrite, run, told

from support.console import clear


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """The files it was made of, elsewhere, and no recipe."""
    folder = tmp_path / "elsewhere" / "deep"
    folder.mkdir(parents=True)
    for name in ("chat.jsonl", "words.txt"):
        shutil.copyfile(made.parents[2] / name, folder / name)
    return tmp_path


def test_the_same_again(bundle: Path, files: Path) -> None:
    said = told(["reproduce", str(bundle)], files, 0)
    assert said["same"]
    assert [(each["step"], each["kind"]) for each in said["steps"]] == [
        ("base", "model/hf"), ("data", "text/chat"), ("data", "text/corpus"), ("finetune", "model/hf"),
        ("finetune", "adapter/peft"), ("quantize", "model/fake"), ("knowledge", "knowledge"), ("evaluate", "report"),
    ]  # fmt: skip
    assert said["home"] == str(files / ".inhouse-reproduce")
    assert run(["verify", said["bundle"]], files).returncode == 0
    found = run(["diff", str(bundle), said["bundle"], "--json"], files)
    assert json.loads(found.stdout)["differences"].keys() <= {"files"}
    again = run(["reproduce", str(bundle)], files)  # goes on where it was
    assert again.returncode == 0
    assert "the same to the bit, but for measured facts" in again.stdout


def test_a_home_with_other_things_is_refused(bundle: Path, files: Path, made: Path) -> None:
    home = made.parents[1]
    clear(run(["reproduce", str(bundle), "--home", str(home)], files), 2, "is not new")
    (files / "file").touch()
    clear(run(["reproduce", str(bundle), "--home", "file"], files), 2, "is not new")


def test_what_is_not_the_same_is_named(bundle: Path, files: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["steps"][3]["products"]["model/fake"] = "4" * 64
        data["steps"][5]["products"]["report"] = "5" * 64

    rewrite(bundle, change)
    said = told(["reproduce", str(bundle)], files, 1)
    assert not said["same"]
    states = {each["step"]: each["state"] for each in said["steps"]}
    assert states.pop("quantize") == "different"
    assert states.pop("evaluate") == "measured"
    assert set(states.values()) == {"same"}
    done = run(["reproduce", str(bundle), "--home", "other"], files)
    assert (done.returncode, "not the same: quantize; the bundle was made on" in done.stdout) == (1, True)


def test_until_a_step(bundle: Path, files: Path) -> None:
    said = told(["reproduce", str(bundle), "--until", "finetune"], files, 0)
    assert {each["step"] for each in said["steps"]} == {"base", "data", "finetune"}
    assert said["bundle"] is None


def test_other_versions_are_told(bundle: Path, files: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["steps"][0].update(plugin="fakes 0.9", fingerprint="6" * 64)
        data["installed"].update({"click": "0.1", "no-such-thing\x1b": "1"})
        data["python"] = "2.7"

    rewrite(bundle, change)
    said = told(["reproduce", str(bundle)], files, 0)
    assert said["changes"][:2] == [
        "base was made by fakes 0.9, now fakes 1.0",
        "what decides step base (its options, its files, its plugin) is not as it was",
    ]
    assert r"no-such-thing\x1b 1, now not installed" in said["changes"]
    assert any(each.startswith("click 0.1, now ") for each in said["changes"])
    assert any(each.startswith("Python 2.7, now ") for each in said["changes"])
    assert "differs: base was made by" in run(["reproduce", str(bundle)], files).stderr


def test_files_that_are_not_there_or_not_the_same(bundle: Path, files: Path) -> None:
    (files / "elsewhere" / "deep" / "chat.jsonl").write_text("{}\n")
    (files / "elsewhere" / "deep" / "words.txt").unlink()
    done = run(["reproduce", str(bundle)], files)
    clear(done, 2, "not the files that the bundle was made of")
    assert "data.rows.chat: elsewhere/deep/chat.jsonl has other content" in done.stderr
    assert "tools.upper.file: no words.txt" in done.stderr
    assert not (files / ".inhouse-reproduce").exists()
    clear(run(["reproduce", str(bundle), "--inputs", "gone"], files), 2, "gone: no such folder")


def test_of_several_files_of_a_name_the_right_one_is_taken(bundle: Path, files: Path) -> None:
    (files / "chat.jsonl").write_text("{}\n")
    (files / "words.txt").mkdir()
    assert told(["reproduce", str(bundle), "--until", "data"], files, 0)["same"]


def _recipe(old: str, new: str) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        assert old in data["recipe"]
        data["recipe"] = data["recipe"].replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(recipe=None), "has no recipe"),
        (lambda data: data["data"][0].update(key="data.rows.gone"), "its recipe has no 'data.rows.gone'"),
        (lambda data: data["data"][0].update(key="name.x"), "its recipe has no 'name.x'"),
        (lambda data: data["data"][0].update(name="../chat.jsonl"), "no ../chat.jsonl"),
        (lambda data: data["data"].pop(0), "no such file"),
        (_recipe('chat = "chat.jsonl"', 'chat = "chat.jsonl"\ncorpus = "/etc"'), "reads /etc as rows.corpus, which it does not list"),
        (_recipe('name = "fake"', 'name = "../../x"'), "cannot name a folder"),
        (_recipe("fakes:blank", "gone:gone"), "no source named 'gone:gone' is installed"),
    ],
)  # fmt: skip
def test_a_hostile_recipe_is_not_run(
    bundle: Path, files: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(bundle, change)
    clear(run(["reproduce", str(bundle)], files), 2, said)
    assert not (files / ".inhouse-reproduce").exists()
