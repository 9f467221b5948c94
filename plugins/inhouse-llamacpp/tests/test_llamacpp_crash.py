"""Whatever the engine does, the parent lives on and says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import inhouse_llamacpp.runtime
from inhouse.errors import DataError, EngineError
from inhouse.values import Request
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.machine import repacking_crashes
from inhouse_llamacpp.process import EngineDied, Worker
from inhouse_llamacpp.runtime import LlamaCppRuntime

posix = pytest.mark.skipif(os.name != "posix", reason="signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@posix
def test_a_killed_engine_is_an_error(engine: LlamaCppEngine) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EngineError, match="SIGKILL"):
            engine.generate([Request(prompt="x")])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.tokenize("x")


@posix
def test_an_engine_killed_while_it_answers_is_an_error(engine: LlamaCppEngine) -> None:
    pieces = engine.stream(Request(prompt="x", max_tokens=380))
    next(pieces)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="SIGKILL"):
        list(pieces)


@posix
def test_a_hanging_engine_is_stopped(gguf: Path) -> None:
    with LlamaCppRuntime(LlamaCppOptions(patience=1.0)).open(gguf, context=64, threads=1) as engine:
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match="sign of life"):
            engine.tokenize("x")


@linux
def test_nothing_is_left_behind(gguf: Path) -> None:
    threads = threading.active_count()
    with LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=64, threads=1) as engine:
        pid = engine.pid
        assert engine.memory() > 1 << 20
    assert not Path(f"/proc/{pid}").exists()
    assert threading.active_count() == threads


@linux
def test_the_engine_dies_with_its_parent(gguf: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from inhouse_llamacpp import LlamaCppOptions\n"
        "from inhouse_llamacpp.runtime import LlamaCppRuntime\n"
        f"engine = LlamaCppRuntime(LlamaCppOptions()).open(Path({str(gguf)!r}), context=64, threads=1)\n"
        "print(engine.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _gone(pid)


def test_the_parent_never_loads_llama_cpp(gguf: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from inhouse_llamacpp import LlamaCppOptions\n"
        "from inhouse_llamacpp.runtime import LlamaCppRuntime\n"
        f"with LlamaCppRuntime(LlamaCppOptions()).open(Path({str(gguf)!r}), context=64, threads=1) as engine:\n"
        "    engine.tokenize('x')\n"
        "assert not [name for name in sys.modules if name.startswith(('llama_cpp', 'numpy', 'jinja2'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _damaged(gguf: Path, folder: Path, damage: Any) -> Path:
    folder.mkdir()
    (folder / "model.gguf").write_bytes(damage((gguf / "model.gguf").read_bytes()))
    return folder


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:200],
        lambda whole: whole[:8] + b"\xff" * 16 + whole[24:],
        lambda whole: whole[:24] + os.urandom(4096) + whole[4120:],
    ],
    ids=["half", "head-only", "huge-counts", "noise"],
)
def test_a_corrupt_file_is_an_error(gguf: Path, tmp_path: Path, damage: Any) -> None:
    with pytest.raises(EngineError):
        LlamaCppRuntime(LlamaCppOptions()).open(_damaged(gguf, tmp_path / "bad", damage), context=64)


def test_what_is_no_gguf_is_refused_without_a_child(tmp_path: Path) -> None:
    runtime = LlamaCppRuntime(LlamaCppOptions())
    with pytest.raises(DataError, match="cannot be read"):
        runtime.open(tmp_path, context=64)
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 not this")
    with pytest.raises(DataError, match="no GGUF"):
        runtime.open(tmp_path, context=64)
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x63\x00\x00\x00")
    with pytest.raises(DataError, match="version 99"):
        runtime.open(tmp_path, context=64)
    assert runtime.probe() is None


def test_repacking_that_crashes_is_given_up_and_remembered(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[bool] = []

    class Crashing(Worker):
        def __init__(self, setup: Any, *, patience: float) -> None:
            tried.append(setup["repack"])
            if setup["repack"]:
                raise EngineDied("the engine died (killed by SIGSEGV)", crashed=True)
            super().__init__(setup, patience=patience)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(inhouse_llamacpp.runtime, "Worker", Crashing)
    assert not repacking_crashes()
    for _ in range(2):
        with LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=64, threads=1) as engine:
            assert engine.generate([Request(prompt="x", max_tokens=2)])[0].completion_tokens == 2
    assert tried == [True, False, False]
    assert "without them, more slowly" in "".join(capsys.readouterr())
    with pytest.raises(EngineError, match="SIGSEGV"):
        LlamaCppRuntime(LlamaCppOptions(repack="on")).open(gguf, context=64)
