"""Work in processes that die by SIGKILL at one of the calls that change a file: a write, sync, rename, removal.

A shared library counts the calls (``killed.c``), SQLite's and those of other native code too. One process imports what
the work needs and forks for every kill, so that a kill costs little more than the work. Linux, with a C compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from attrs import frozen

DRIVER = """
import ctypes, json, os, random, sys, traceback
from pathlib import Path

def forked(name, call):
    child = os.fork()
    if not child:
        try:
            (folder / name).mkdir()
            counter.die_at(call)
            work(folder / name)
            made = counter.calls_made()
            counter.die_at(-1)
            (folder / name / "calls").write_text(str(made))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

counter, folder, points, seed = ctypes.CDLL(None), Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if forked("whole", -1):
    sys.exit(1)
calls = int((folder / "whole" / "calls").read_text())
drawn = sorted(random.Random(seed).sample(range(1, calls + 1), min(points, calls)))
print(json.dumps([(call, forked(str(call), call)) for call in drawn]))
"""


@frozen
class Killed:
    """What a process left in ``folder`` that died at its ``call``-th change, from 1."""

    call: int
    folder: Path


def killed(code: str, folder: Path, *, points: int, seed: int) -> list[Killed]:
    """``code`` defines ``work(folder)``. It is done to the end in ``folder / "whole"``, and then as many times as there
    are ``points``, in folders of their own, to a call drawn by ``seed``. Calls have to be the same each time.
    """
    library = _library(folder)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code) + DRIVER, str(folder), str(points), str(seed)],
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",  # a process with threads cannot be forked
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert {code for _, code in ends} == {-signal.SIGKILL}, done.stderr
    return [Killed(call, folder / str(call)) for call, _ in ends]


def _library(folder: Path) -> Path:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    library = folder / "killed.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library
