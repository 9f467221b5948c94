"""Runs llama.cpp in a child process, so that a crash in it is an error here and no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import frozen

from inhouse.errors import DataError, EngineError, StepError

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is in all (tensors begun, or tokens), and the tensor at hand."""

WAITING = {"OMP_WAIT_POLICY": "passive"}
"""Of OpenMP: threads that wait for each other sleep. On a machine that does something else too, spinning ones took
five times as long to compute a matrix."""


@frozen
class Collected:
    """What an importance matrix was computed over: ``tokens`` (0: no matrix, there is no text) of a kind of text.

    ``refused`` chats were left out because the model's chat template does not take them.
    """

    tokens: int
    text: str
    refused: int


def quantize(
    source: Path, target: Path, type: str, threads: int, progress: Progress, matrix: Path | None = None
) -> None:
    """Writes ``target`` from the GGUF ``source``, with the importance ``matrix`` if one is given. 0 threads: all cores.

    Raises ``EngineError`` when the child dies and ``StepError`` when llama.cpp refuses; whatever
    ``progress`` raises stops the child. ``target`` may be half written then.
    """
    job = {"source": str(source), "target": str(target), "type": type, "threads": threads}
    job["matrix"] = str(matrix) if matrix else ""
    _quantize(job, lambda told: progress(told["index"], told["count"], told["tensor"]) if "tensor" in told else None)


def types_in(source: Path, type: str, matrix: Path | None = None) -> dict[str, str]:
    """The type of each tensor that llama.cpp would quantise in the GGUF ``source`` (Q4_0 …), by its name.

    Raises as :func:`quantize`; of ``source`` only the header is read. llama.cpp chooses some types by whether there
    is an importance ``matrix``.
    """
    told: list[dict[str, Any]] = []
    job = {"source": str(source), "target": "", "type": type, "threads": 1, "matrix": str(matrix) if matrix else ""}
    _quantize(job, told.append)
    return {before["tensor"]: each["type"].upper() for before, each in pairwise(told) if "type" in each}


def collect(
    source: Path,
    target: Path,
    *,
    chats: Path | None,
    corpus: Path | None,
    tokens: int,
    seed: int,
    threads: int,
    progress: Progress,
    every: float = 20.0,
) -> Collected:
    """Computes the importance matrix ``target`` of the unquantised GGUF ``source`` over about ``tokens`` tokens.

    They are drawn from the rows of ``chats``, or of ``corpus`` where there are none (``train.jsonl`` and
    ``corpus.jsonl`` of the data step). Sums are kept beside ``target`` ``every`` so many seconds, and a later call
    goes on from them. Raises ``DataError`` for text or a template that is broken, ``EngineError`` when the child
    dies, ``StepError`` when llama.cpp refuses; whatever ``progress`` raises stops the child.
    """
    part = target.with_name(target.name + ".sums")
    job = {"source": str(source), "target": str(target), "part": str(part), "every": every, "tokens": tokens}
    job |= {"chats": str(chats or ""), "corpus": str(corpus or ""), "seed": seed, "threads": threads}
    last = _run(
        "collector", job, "computing the importance matrix", lambda told: progress(told["tokens"], told["total"], "")
    )
    if "error" in last:
        kind = next((each for each in (DataError, EngineError) if each.__name__ == last["kind"]), StepError)
        raise kind(last["error"], where=last["where"], hint=last["hint"])
    part.unlink(missing_ok=True)
    return Collected(last["tokens"], last["text"], last["refused"])


def _quantize(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    type = job["type"]
    last = _run("worker", job, f"quantising to {type}", tell)
    if "error" in last:
        hint = "a type of at least 3 bits, such as q3_k_m, or training text" if "imatrix" in last["error"] else None
        raise StepError(f"llama.cpp did not quantise to {type}: {last['error']}", hint=hint)


def _run(module: str, job: dict[str, Any], doing: str, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Has a module of this package do ``job`` in a child; returns its last line, with "done" or "error"."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(  # noqa: S603  (a module of this package)
            [sys.executable, "-P", "-m", f"inhouse_gguf.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
            env={**WAITING, **os.environ},
        )
        try:
            last = _follow(child, job, tell)
            code = child.wait()
        finally:
            _end(child)
        if last.get("done") or "error" in last:
            return last
        said.seek(0)
        tail = " ".join(said.read().decode(errors="replace").split("\n")[-6:]).strip()
    raise EngineError(f"llama.cpp died while {doing} ({ending(code)}){': ' + tail if tail else ''}")


def _follow(
    child: subprocess.Popen[str], job: dict[str, Any], tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Hands over the job and tells of what is done until the child has no more to say; returns its last line."""
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
        if not {"done", "error"} & last.keys():
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
