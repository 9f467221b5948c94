"""Runs llama.cpp's quantiser in a child process, so that a crash in it is an error here and no more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from inhouse.errors import EngineError, StepError

Progress = Callable[[int, int, str], None]
"""Called with tensors begun, tensors in all, and the tensor at hand."""


def quantize(source: Path, target: Path, type: str, threads: int, progress: Progress) -> None:
    """Writes ``target`` from the GGUF ``source``. ``threads`` 0 = all cores.

    Raises ``EngineError`` when the child dies and ``StepError`` when llama.cpp refuses; whatever
    ``progress`` raises stops the child. ``target`` may be half written then.
    """
    job = {"source": str(source), "target": str(target), "type": type, "threads": threads}
    _run(job, lambda told: progress(told["index"], told["count"], told["tensor"]) if "tensor" in told else None)


def types_in(source: Path, type: str) -> dict[str, str]:
    """The type of each tensor that llama.cpp would quantise in the GGUF ``source`` (Q4_0 …), by its name.

    Raises as :func:`quantize`; of ``source`` only the header is read.
    """
    told: list[dict[str, Any]] = []
    _run({"source": str(source), "target": "", "type": type, "threads": 1}, told.append)
    return {before["tensor"]: each["type"].upper() for before, each in pairwise(told) if "type" in each}


def _run(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    type = job["type"]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "inhouse_gguf.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
        )
        try:
            last = _follow(child, job, tell)
            code = child.wait()
        finally:
            _end(child)
        if last.get("done"):
            return
        said.seek(0)
        tail = " ".join(said.read().decode(errors="replace").split("\n")[-6:]).strip()
    if "error" in last:
        hint = "a type of at least 3 bits, such as q3_k_m" if "imatrix" in last["error"] else None
        raise StepError(f"llama.cpp did not quantise to {type}: {last['error']}", hint=hint)
    raise EngineError(f"llama.cpp died while quantising to {type} ({ending(code)}){': ' + tail if tail else ''}")


def _follow(
    child: subprocess.Popen[str], job: dict[str, Any], tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Hands over the job and tells of each tensor until the child has no more to say; returns its last line."""
    assert child.stdin is not None
    assert child.stdout is not None
    last: dict[str, Any] = {}
    try:
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
    except BrokenPipeError:  # it died before it read: its exit code tells
        return last
    for line in child.stdout:
        last = json.loads(line)
        if "tensor" in last or "type" in last:
            tell(last)
    return last


def _end(child: subprocess.Popen[str]) -> None:
    """Leaves no process and no pipe behind."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def ending(code: int) -> str:
    """What the exit code of a child process means."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
