"""Runs llama.cpp's quantiser in a child process, so that a crash in it is an error here and no more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
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
            last = _follow(child, job, progress)
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
    raise EngineError(f"llama.cpp died while quantising to {type} ({_how(code)}){': ' + tail if tail else ''}")


def _follow(child: subprocess.Popen[str], job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Hands over the job and reports progress until the child has no more to say; returns its last line."""
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
        if "tensor" in last:
            progress(last["index"], last["count"], last["tensor"])
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


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
