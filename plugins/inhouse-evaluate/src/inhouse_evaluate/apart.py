"""What an engine takes of the machine, measured in a process that holds the model and nothing else of the run.

Runtimes that load into their own process (transformers) would be measured with everything that the run has in memory;
and where the model does not fit, it is not the run that the system ends.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import asdict

from inhouse import errors
from inhouse.errors import EngineError, InhouseError
from inhouse.protocols import Services
from inhouse.values import Artifact, Json, Target

from .load import Load

_EVERY = 0.5
"""Seconds between two calls of ``tick``."""


def load_apart(
    services: Services, model: Artifact, target: Target, *, text: str, tick: Callable[[], None]
) -> tuple[Load, str]:
    """Opens ``model`` in a child with the context and threads of ``target``, fills the context with ``text`` over and
    over, decodes; and the settings it runs with, where they are not the runtime's usual ones (else '').

    ``tick`` is called while it works; what it raises ends the child. Raises what opening and running raised there, and
    ``EngineError`` when the child died.
    """
    services.runtime_name(model.kind)  # raises where there is none
    job = {
        "runtime": services.settings()["runtimes"][model.kind],
        "model": {"kind": model.kind, "path": str(model.path)},
        "target": asdict(target),
        "text": text,
    }
    found = _child(job, tick)
    if "error" in found:
        raise _error(found["error"])
    return Load(**found["load"]), found["settings"]


def _child(job: Json, tick: Callable[[], None]) -> Json:
    """What ``inhouse_evaluate.loader`` says of a job."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "inhouse_evaluate.loader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
        )
        try:
            line = _answer(child, job, tick)
        finally:
            _end(child)
        with suppress(ValueError):  # nothing, or cut off by its death
            return json.loads(line)
        said.seek(0)
        tail = " ".join(said.read().decode(errors="replace").split("\n")[-4:]).strip()
    code = child.returncode
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise EngineError(f"the process that held the model died ({how}){': ' + tail if tail else ''}")


def _answer(child: subprocess.Popen[str], job: Json, tick: Callable[[], None]) -> str:
    """The line that the child says; '' when it dies without one."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):  # it died before it read: its exit code tells
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda out: lines.put(out.readline()), args=(child.stdout,), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_EVERY)
        except queue.Empty:
            tick()
            continue
        if not line:
            child.wait()
        return line


def _end(child: subprocess.Popen[str]) -> None:
    """Leaves no process and no pipe behind."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _error(told: Any) -> InhouseError:
    kind = getattr(errors, told["kind"], EngineError)
    made: InhouseError = kind(told["message"], where=told["where"], hint=told["hint"], plugin=told["plugin"])
    return made
