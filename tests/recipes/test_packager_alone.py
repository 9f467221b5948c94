"""The packager alone, as a command, on a GGUF from outside: one line, exit code 2, nothing written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from inhouse_gguf.convert import convert
from support.tiny_llama import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = folder / "gguf" / "model.gguf"
    made.parent.mkdir()
    convert(make_model(folder / "hf", width=32), made, "F16", lambda *_: None)
    return made


def package(file: Path) -> subprocess.CompletedProcess[str]:
    command = ["step", "packager", "folder", f"model/gguf={file.parent}", "--home", "home", "--output", "bundle"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "inhouse", *command], cwd=file.parent.parent, env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["none", "half", "array"])
def test_a_gguf_that_is_not_whole_is_exit_2(model: Path, tmp_path: Path, damage: str) -> None:
    whole = model.read_bytes()
    file = tmp_path / "given" / "model.gguf"
    file.parent.mkdir()
    said = {"none": "", "half": "cannot be read as GGUF: it ends at byte", "array": "cannot be read as GGUF"}[damage]
    endless = struct.pack("<QcIIQ", 1, b"a", 9, 0, 1 << 60)  # a key: an array of 2^60 bytes
    file.write_bytes({
        "none": whole, "half": whole[: len(whole) // 2], "array": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + endless,
    }[damage])  # fmt: skip
    done = package(file)
    assert done.returncode == (2 if said else 0), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "bundle").exists() == (not said)
    assert bool(list((tmp_path / "home").glob("**/bundle.json"))) == (not said)
