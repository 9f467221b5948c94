"""Memory of a process and its children."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from inhouse.memory import PeakMemory, resident_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
MB = 1 << 20


def measured(fork: bool) -> int:
    """``resident_bytes`` of a process that holds 200 MB, with or without a forked child that shares them."""
    script = (
        "import os, sys, time\n"
        "from inhouse.memory import resident_bytes\n"
        "held = bytearray(os.urandom(1024)) * (200 * 1024)\n"
        "child = os.fork() if sys.argv[1] == 'True' else -1\n"
        "if child == 0: time.sleep(60)\n"
        "time.sleep(0.2)\n"
        "print(resident_bytes())\n"
        "if child > 0: os.kill(child, 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(fork)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_pages_shared_with_a_child_count_once() -> None:
    alone = measured(False)
    assert alone > 200 * MB
    assert measured(True) < alone + 50 * MB


def test_a_childs_own_memory_counts() -> None:
    script = (
        "print('small', flush=True); input(); held = bytearray(b'x') * (150 << 20); print('big', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        before = resident_bytes()
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        assert resident_bytes() > before + 130 * MB
        child.stdin.write("\n")


def test_the_peak_is_kept() -> None:
    before = resident_bytes()
    with PeakMemory(interval=0.01) as peak:
        held = bytearray(b"x") * (100 * MB)
        time.sleep(0.2)
        del held
    assert peak.bytes > before + 80 * MB
