"""Whatever the engine does, the parent lives on and says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from inhouse.errors import DataError, EngineError
from inhouse.values import Request
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.machine import repacking_crashes
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


FAKE = """
import os, signal, sys, time
if "inhouse_llamacpp.worker" in sys.orig_argv:
    import llama_cpp.llama_cpp as real
    load = real.llama_model_load_from_file
    def fake(path, params):
        with open({tried!r}, "a") as file:
            file.write(f"{{params.use_extra_bufts:d}}")
        if params.use_extra_bufts or {always}:
            {what}
        return load(path, params)
    real.llama_model_load_from_file = fake
"""
"""What Python runs in the child before the worker: the loading of a model goes wrong in native code, or never ends."""


class Fake:
    """Plants ``FAKE``; ``tried`` has a 1 for each time that a model was loaded with repacked weights, a 0 without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tried = folder / "tried"

    def __call__(self, what: str, *, always: bool = False) -> None:
        told = FAKE.format(tried=str(self._tried), what=what, always=always)
        (self.folder / "sitecustomize.py").write_text(told)

    @property
    def tried(self) -> str:
        return self._tried.read_text() if self._tried.exists() else ""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Fake(folder)


@linux
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL"])
def test_repacking_that_crashes_is_given_up_remembered_and_told(gguf: Path, fake: Fake, name: str) -> None:
    structlog.reset_defaults()  # the command line, tested in the same process, keeps warnings back
    fake(f"os.kill(os.getpid(), signal.{name})")
    assert not repacking_crashes()
    with capture_logs() as logged:
        for _ in range(2):
            with LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=64, threads=1) as engine:
                assert engine.generate([Request(prompt="x", max_tokens=2)])[0].completion_tokens == 2
                assert f"repacked weights (killed by {name}); it runs without" in engine.told
    assert fake.tried == "100"  # once for this build and machine
    assert [each["log_level"] for each in logged if "without them, more slowly" in each["event"]] == ["warning"]
    with pytest.raises(EngineError, match=name) as told:
        LlamaCppRuntime(LlamaCppOptions(repack="on")).open(gguf, context=64)
    assert told.value.hint == 'repack = "auto"'


@linux
def test_a_build_that_crashes_whatever_is_tried_is_an_error(gguf: Path, fake: Fake) -> None:
    fake("os.kill(os.getpid(), signal.SIGILL)", always=True)
    with pytest.raises(EngineError, match="SIGILL") as told:
        LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=64)
    assert fake.tried == "10"
    assert "pip install" in str(told.value.hint)
    assert not repacking_crashes()  # it is not repacking that kills it


@linux
def test_a_load_that_never_ends_is_stopped(gguf: Path, fake: Fake) -> None:
    fake("time.sleep(600)")
    with pytest.raises(EngineError, match="no sign of life for 8 seconds"):
        LlamaCppRuntime(LlamaCppOptions(patience=8.0)).open(gguf, context=64)
    assert fake.tried == "1"


def test_what_is_usual_is_not_told(gguf: Path, fake: Fake) -> None:
    with LlamaCppRuntime(LlamaCppOptions()).open(gguf, context=64, threads=1) as engine:
        assert engine.told == ""
    with LlamaCppRuntime(LlamaCppOptions(repack="off")).open(gguf, context=64, threads=1) as engine:
        assert 'repack = "off"' in engine.told
