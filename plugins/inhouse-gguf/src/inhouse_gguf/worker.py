"""The child process that quantises: ``python -P -m inhouse_gguf.worker``.

One JSON job on the first line of stdin: {"source", "target", "type", "threads", "matrix"}. stdout has one JSON object
a line: {"tensor", "index", "count"} while it works, then {"done": true} or {"error": "..."}. Without a target it is a
dry run: nothing is written, no weight is read, and {"type"} follows each tensor that would be quantised. ``matrix`` is
the file of an importance matrix, or empty. stdin stays open as long as the parent lives.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inhouse.errors import InhouseError

Say = Callable[..., None]
"""Tells the parent a JSON object."""

TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
"""llama.cpp's line before each tensor: ``[   3/ 272] blk.0.ffn_down.weight - [...]``."""

TYPE = re.compile(r"-> +[\d.]+ MiB \((\w+)\)")
"""What follows in a dry run, for a tensor that is quantised: ``-> 0.18 MiB (q4_0)``."""

LEVEL_ERROR = 4  # enum ggml_log_level in ggml.h

BUFFER = 512 << 20
"""Bytes of rows that llama.cpp may hold at once; its own default is 8 GiB."""


def _follow_parent() -> None:
    """Ends this process when the parent's end of stdin is gone."""
    sys.stdin.read()
    os._exit(1)


def start(llama: Any, listen: Callable[[int, str], None]) -> Any:
    """Begins with llama.cpp; ``listen`` gets the level and text of its log lines. Keep what it returns."""

    def log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        listen(level, " ".join(text.decode(errors="replace").replace("====", "").split()))

    callback = llama.llama_log_callback(log)
    llama.llama_log_set(callback, ctypes.c_void_p())
    llama.llama_backend_init()
    return callback


def quantize(job: dict[str, Any], say: Say) -> None:
    """Runs one job, telling how far it is."""
    llama: Any = importlib.import_module("llama_cpp.llama_cpp")
    errors: list[str] = []

    def listen(level: int, line: str) -> None:
        if found := TENSOR.match(line):
            say(tensor=found[3], index=int(found[1]), count=int(found[2]))
        if found := TYPE.search(line):
            say(type=found[1])
        if level == LEVEL_ERROR and line:
            errors.append(line)

    kept = [start(llama, listen)]
    name = job["type"].upper()
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, "LLAMA_FTYPE_ALL_F32" if name == "F32" else f"LLAMA_FTYPE_MOSTLY_{name}")
    params.nthread = job["threads"] or os.cpu_count() or 1
    params.max_buf_size = BUFFER
    params.dry_run = not job["target"]
    if job["matrix"]:
        kept.append(_give_matrix(llama, params, Path(job["matrix"])))
    code = llama.llama_model_quantize(os.fsencode(job["source"]), os.fsencode(job["target"]), ctypes.byref(params))
    if code == 0:
        say(done=True)
    else:
        say(error=" ".join(errors) or f"llama_model_quantize returned {code}")


def _give_matrix(llama: Any, params: Any, path: Path) -> Any:
    """Hands an importance matrix to ``params``; returns what has to stay alive as long as they are used."""
    from inhouse_gguf.imatrix import read_matrix

    means = {name.encode(): entry.means() for name, entry in read_matrix(path).entries.items()}
    table = (llama.llama_model_imatrix_data * (len(means) + 1))()  # a row without a name ends it
    floats = ctypes.POINTER(ctypes.c_float)
    for row, (name, values) in zip(table, means.items(), strict=False):
        row.name, row.data, row.size = name, values.ctypes.data_as(floats), values.size
    params.imatrix = table
    return table, means


def serve(work: Callable[[dict[str, Any], Say], None]) -> None:
    """Reads the job, keeps stdout for the protocol (native code prints there too), works.

    A typed error is told as {"error", "kind", "where", "hint"}; any other ends the process with its traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow_parent, daemon=True).start()

    def say(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        work(job, say)
    except InhouseError as error:
        say(error=error.message, kind=type(error).__name__, where=error.where, hint=error.hint)


if __name__ == "__main__":
    serve(quantize)
