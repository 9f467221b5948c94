"""``verify``: every file, and every form that a hostile lineage can have."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packed import rewrite, run, told

from inhouse_commands.lineage import LARGEST
from support.console import clear


def test_a_whole_bundle_holds(made: Path, bundle: Path, tmp_path: Path) -> None:
    for each in (made, bundle):
        said = told(["verify", str(each)], tmp_path, 0)
        assert (said["ok"], said["differences"], said["name"]) == (True, [], "fake")
        assert said["lineage"] == hashlib.sha256((each / "lineage.json").read_bytes()).hexdigest()
    done = run(["verify", str(bundle)], tmp_path)
    assert done.returncode == 0
    count = said["files"]
    assert done.stdout == f"{count} of {count} files hold; lineage.json sha256 {said['lineage']}\n"


def test_a_flipped_bit_in_any_file_is_found(bundle: Path, tmp_path: Path) -> None:
    for path in sorted(each for each in bundle.rglob("*") if each.is_file()):
        name = path.relative_to(bundle).as_posix()
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            done = run(["verify", str(bundle), "--json"], tmp_path)
            if name == "lineage.json" and done.returncode == 2:
                assert "lineage.json: " in done.stderr  # what is left is no lineage
                continue
            assert done.returncode == 1, (name, at, done.stdout, done.stderr)
            found = json.loads(done.stdout)["differences"]
            assert name in {each["path"] for each in found}
            assert len(found) == 1 or name == "lineage.json"  # a digest in it that is another now
            assert all(each["expected"] != each["found"] for each in found)
        path.write_bytes(whole)
    assert run(["verify", str(bundle)], tmp_path).returncode == 0


def test_every_bit_of_the_lineage_counts(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "lineage.json"
    whole = path.read_bytes()
    for at in range(3, len(whole), len(whole) // 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
        done = run(["verify", str(bundle)], tmp_path)
        assert done.returncode in (1, 2), whole[at - 20 : at + 20]
        assert "lineage.json" in done.stdout + done.stderr


def test_missing_added_and_cut_files(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model" / "model.txt").unlink()
    (bundle / "model" / "other.txt").write_text("x")
    (bundle / ".hidden").mkdir()
    (bundle / ".hidden" / "y").write_text("yy")
    path = bundle / "knowledge" / "shelf.json"
    path.write_bytes(path.read_bytes()[:-1])
    said = told(["verify", str(bundle)], tmp_path, 1)
    assert [(each["path"], each["state"], each["found"]) for each in said["differences"]] == [
        (".hidden/y", "added", "2 bytes"),
        ("knowledge/shelf.json", "changed", f"{path.stat().st_size} bytes"),
        ("model/model.txt", "missing", "nothing"),
        ("model/other.txt", "added", "1 bytes"),
    ]


def test_edits_of_its_owner_are_told_as_such(bundle: Path, tmp_path: Path) -> None:
    for name in ("files/tools/upper/file.txt", "bundle.json", "README.md"):
        (bundle / name).write_text((bundle / name).read_text() + " ")
    said = told(["verify", str(bundle)], tmp_path, 1)
    assert [(each["path"], each["state"]) for each in said["differences"]] == [
        ("README.md", "edited"), ("bundle.json", "edited"), ("files/tools/upper/file.txt", "edited"),
    ]  # fmt: skip
    assert told(["verify", str(bundle), "--allow-edits"], tmp_path, 0)["differences"] == said["differences"]
    assert "edited (its owner may)" in run(["verify", str(bundle)], tmp_path).stdout
    (bundle / "model" / "model.txt").write_text("x")
    assert not told(["verify", str(bundle), "--allow-edits"], tmp_path, 1)["ok"]


def test_a_lineage_that_contradicts_its_files(bundle: Path, tmp_path: Path) -> None:
    rewrite(bundle, lambda data: data["inputs"][1].update(digest="1" * 64))
    (found,) = told(["verify", str(bundle)], tmp_path, 1)["differences"]
    assert (found["path"], found["state"]) == ("knowledge/", "contradiction")
    held = {"file": "knowledge/shelf.json", "sha256": "1" * 64}
    rewrite(bundle, lambda data: data.update(inputs=[], tokenizer=held))
    (found,) = told(["verify", str(bundle)], tmp_path, 1)["differences"]
    assert (found["path"], found["expected"]) == ("knowledge/shelf.json", f"sha256 {'1' * 64}")
    rewrite(bundle, lambda data: data.update(tokenizer={**held, "file": "/etc/passwd"}))
    (found,) = told(["verify", str(bundle)], tmp_path, 1)["differences"]
    assert (found["path"], found["found"]) == ("/etc/passwd", "sha256 of no file")


def test_links_and_devices_are_never_opened(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((bundle / "model" / "model.txt").read_bytes())
    secret.chmod(0)  # reading it would be an error, but for root
    (bundle / "model" / "model.txt").unlink()
    (bundle / "model" / "model.txt").symlink_to(secret)
    shutil.copytree(bundle / "knowledge", tmp_path / "knowledge")
    shutil.rmtree(bundle / "knowledge")
    (bundle / "knowledge").symlink_to(tmp_path / "knowledge")
    (bundle / "README.md").unlink()
    os.mkfifo(bundle / "README.md")
    said = told(["verify", str(bundle)], tmp_path, 1)
    assert [(each["path"], each["state"]) for each in said["differences"]] == [
        ("README.md", "link"),
        ("knowledge", "link"),
        ("knowledge/shelf.json", "missing"),
        ("model/model.txt", "link"),
    ]


def test_names_that_are_no_text(bundle: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(bundle) + b"/\xff\x1b[2J")).touch()
    done = run(["verify", str(bundle)], tmp_path)
    assert done.returncode == 1
    assert r"\udcff\x1b[2J" in done.stdout
    assert told(["verify", str(bundle)], tmp_path, 1)["differences"][0]["path"] == r"\udcff\x1b[2J"


def test_what_is_no_bundle(tmp_path: Path, bundle: Path) -> None:
    assert run(["verify"], tmp_path).returncode == 2
    for command in (["verify", "x"], ["diff", "x", str(bundle)], ["diff", str(bundle), "x"], ["reproduce", "x"]):
        clear(run(command, tmp_path), 2, "x: is no bundle (no such folder)")
    (tmp_path / "x").mkdir()
    clear(run(["verify", "x"], tmp_path), 2, "x: is no bundle (it has no lineage.json)")


def test_a_bundle_of_an_older_inhouse(bundle: Path, tmp_path: Path) -> None:
    rewrite(bundle, lambda data: data.update(format=1))
    clear(run(["verify", str(bundle)], tmp_path), 2, "has format '1', this inhouse-commands reads 2")


def _files(path: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["files"][0].update(path=path)


HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    *(
        (_files(path), "which is no path inside a bundle")
        for path in ("/etc/passwd", "../secret", "model/../../x", "", ".", "a//b", "a/./b", "a\0b", "lineage.json", "x" * 5000)
    ),
    (lambda data: data["files"].append(data["files"][0]), "twice"),
    (lambda data: data["files"][0].update(path=7), "files[0].path is not a text"),
    (lambda data: data["files"][0].update(size=True), "files[0].size is not a whole number"),
    (lambda data: data["files"][0].update(size=-1), "files[0].size is out of range"),
    (lambda data: data["files"][0].update(size=1 << 70), "files[0].size is out of range"),
    (lambda data: data["files"][0].update(sha256="A" * 64), "files[0].sha256 is 'AAA"),
    (lambda data: data["files"][0].update(more=1), "files[0] has further keys"),
    (lambda data: data["files"][0].pop("editable"), "files[0] has no 'editable'"),
    (lambda data: data.update(files={}), "files is not a list"),
    (lambda data: data.update(files=[None]), "files[0] is not an object"),
    (lambda data: data.pop("steps"), "has no 'steps'"),
    (lambda data: data["steps"][0].update(products={"a": 1}), "steps[0].products.a is not a text"),
    (lambda data: data.update(gates={"e": {"g": {"passed": 1}}}), "gates.e.g has no 'measured'"),
    (lambda data: data.update(seed=1.5), "seed is not a whole number"),
    (lambda data: data.update(base=[]), "base is not an object"),
    (lambda data: data.update(installed={"x" * 99: 1}), "installed.xxx"),
    (lambda data: data.update(name="\ud800"), "no JSON"),
    (lambda data: data.update(cores=float("nan")), "NaN is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), HOSTILE)
def test_a_hostile_lineage_is_one_clear_line(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(bundle, change)
    for command in (["verify", str(bundle)], ["diff", str(bundle), str(bundle)], ["reproduce", str(bundle)]):
        clear(run(command, tmp_path), 2, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON"),
        (b"\xff{}", "no JSON"),
        (b"[]", "no JSON object"),
        (b"[" * 1_000_000, "no JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"format": "\x1b[2J"}', "no JSON"),
        (b'{"format": "\\u001b[2J"}', r"has format '\x1b[2J'"),
        (b" " * (LARGEST + 1), "has more than 16 MiB"),
    ],
)
def test_what_is_no_lineage(bundle: Path, tmp_path: Path, content: bytes, said: str) -> None:
    (bundle / "lineage.json").write_bytes(content)
    clear(run(["verify", str(bundle)], tmp_path), 2, said)


def test_a_lineage_that_is_a_link_or_a_device(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "lineage.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    clear(run(["verify", str(bundle)], tmp_path), 2, "lineage.json: is a link")
    path.unlink()
    os.mkfifo(path)
    clear(run(["verify", str(bundle)], tmp_path), 2, "lineage.json: is no plain file")
    path.unlink()
    path.mkdir()
    clear(run(["verify", str(bundle)], tmp_path), 2, "lineage.json: is no plain file")
