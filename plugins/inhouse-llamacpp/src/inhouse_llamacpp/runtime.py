"""Runtime ``llamacpp``: checks a GGUF, starts the child process, and falls back when repacking crashes."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import structlog

from inhouse.errors import DataError
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.machine import library_files, remember_crash, repacking_crashes
from inhouse_llamacpp.process import EngineDied, Worker

log = structlog.get_logger("inhouse_llamacpp")

CURE = "build llama-cpp-python with CFLAGS='-mno-amx-tile -mno-amx-int8' CXXFLAGS='-mno-amx-tile -mno-amx-int8' (x86)"


class LlamaCppRuntime:
    """Opens ``model/gguf``. The native library is only ever loaded in the child."""

    def __init__(self, options: LlamaCppOptions) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Whether llama.cpp is installed, and whole."""
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: pip install llama-cpp-python (compiles; needs g++ and cmake)"
        if not library_files():
            return "llama-cpp-python has no shared library: pip install --force-reinstall llama-cpp-python"
        return None

    def open(self, model: Path, *, context: int, threads: int = 0) -> LlamaCppEngine:
        """Loads ``model/model.gguf`` for ``context`` tokens; ``threads`` 0 = all cores this process may use.

        Raises ``DataError`` for what is no GGUF, ``RecipeError`` for a context longer than the model's, and
        ``EngineError`` with what llama.cpp said when it refuses, crashes or never ends.
        """
        path = model / "model.gguf"
        _check_header(path)
        setup = {
            "model": str(path),
            "context": context,
            "threads": threads or _cores(),
            "slots": self.options.slots,
            "cache_memory": self.options.cache_memory,
            "cache_type": self.options.cache_type,
        }
        worker, told = self._start(setup)
        return LlamaCppEngine(worker, context=context, batch=self.options.slots, told=told)

    def _start(self, setup: dict[str, Any]) -> tuple[Worker, str]:
        """The child, with repacked weights where they do not crash it, and why where it runs without them. That is
        tried once per build and machine: what is written down about it is believed."""
        if self.options.repack == "off":
            return self._worker(setup, repack=False), 'weights are not repacked for this CPU: repack = "off"'
        said = repacking_crashes() if self.options.repack == "auto" else ""
        if said:
            return self._worker(setup, repack=False), _without(said)
        try:
            return self._worker(setup, repack=True), ""
        except EngineDied as death:
            if not death.crashed:
                raise
            if self.options.repack != "auto":
                death.hint = 'repack = "auto"'
                raise
            try:
                worker = self._worker(setup, repack=False)
            except EngineDied:
                death.hint = "build it on this machine: pip install --force-reinstall --no-cache-dir llama-cpp-python"
                raise death from None  # repacking is not what kills it
            remember_crash(death.how)
            log.warning(_without(death.how), said=death.message, cure=CURE)
            return worker, _without(death.how)

    def _worker(self, setup: dict[str, Any], *, repack: bool) -> Worker:
        return Worker({**setup, "repack": repack}, patience=self.options.patience)


def _without(said: str) -> str:
    return f"llama.cpp crashes on this machine with repacked weights ({said}); it runs without them, more slowly"


def _check_header(path: Path) -> None:
    """Refuses what is plainly no GGUF before a process is started for it."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"the model cannot be read: {error.strerror}", where=str(path)) from error
    if len(head) < 8 or head[:4] != b"GGUF":
        raise DataError("this is no GGUF file", where=str(path))
    version = int.from_bytes(head[4:], "little")
    if version not in (2, 3):
        raise DataError(f"GGUF version {version} is not known", where=str(path))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
