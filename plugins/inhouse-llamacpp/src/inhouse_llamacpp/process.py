"""The parent's side of the child process: starting it, calling it, and telling what became of it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inhouse.errors import DataError, EngineError, InhouseError, RecipeError

ERRORS: Mapping[str, type[InhouseError]] = {"recipe": RecipeError, "data": DataError, "engine": EngineError}

CRASHES = tuple(
    -getattr(signal, name) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE", "SIGABRT") if hasattr(signal, name)
)


SPIN = "100"
"""Turns that an OpenMP thread spins at a barrier before it sleeps. libgomp's default (300,000) makes decoding 3 to
7 times slower as soon as another process wants a core."""


class EngineDied(EngineError):
    """The child process ended by itself; ``how``, in a few words. ``crashed`` says that native code was at fault."""

    def __init__(self, message: str, *, crashed: bool, how: str = "") -> None:
        super().__init__(message)
        self.crashed = crashed
        self.how = how or message


class Worker:
    """A running ``inhouse_llamacpp.worker``. Its calls may come from several threads.

    ``setup`` is its first line. Raises what loading raised: ``EngineError`` (``EngineDied`` for a crash),
    ``RecipeError`` or ``DataError``. ``patience``: seconds without a sign of life before it is killed.
    """

    def __init__(self, setup: Mapping[str, Any], *, patience: float) -> None:
        self._patience = patience
        self._heard = time.monotonic()
        self._lock = threading.Lock()
        self._number = 0
        self._answers: dict[int | None, queue.SimpleQueue[Any]] = {None: queue.SimpleQueue()}
        self._death: EngineDied | None = None
        self._closing = False
        self._said: deque[str] = deque(maxlen=40)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "inhouse_llamacpp.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"GOMP_SPINCOUNT": SPIN, **os.environ},
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._overhear)]
        for each in self._threads:
            each.start()
        try:
            self._send(dict(setup))
            self.ready = self._wait(None)["ready"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    def call(self, op: str, **arguments: Any) -> Any:
        """The result of one operation. Raises its error, or ``EngineError`` when the child died or hangs."""
        with self._calling(op, arguments) as number:
            try:
                return self._wait(number)["result"]
            except (KeyboardInterrupt, SystemExit):  # nobody waits for it any more
                self._send({"id": -1, "op": "cancel", "call": number})
                raise

    def stream(self, op: str, **arguments: Any) -> Iterator[str]:
        """The pieces of one operation as they come; cancelled when the iterator is closed early."""
        with self._calling(op, arguments) as number:
            over = False
            try:
                while True:
                    message = self._wait(number)
                    if "piece" not in message:
                        over = True
                        return
                    yield message["piece"]
            except EngineError:
                over = True
                raise
            finally:
                if not over:
                    self._send({"id": -1, "op": "cancel", "call": number})
                    while "piece" in self._wait(number):
                        pass

    def close(self) -> None:
        """Ends the child and reaps it."""
        self._closing = True
        try:
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._child.wait(timeout=2)
        except (OSError, subprocess.TimeoutExpired):
            self._child.kill()
            self._child.wait()
        for each in self._threads:
            if each is not threading.current_thread():
                each.join(timeout=2)
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()

    def _calling(self, op: str, arguments: Mapping[str, Any]) -> "_Ticket":
        with self._lock:
            self._number += 1
            number = self._number
            self._answers[number] = queue.SimpleQueue()
        self._heard = max(self._heard, time.monotonic())
        self._send({"id": number, "op": op, **arguments})
        return _Ticket(self._answers, number)

    def _send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message) + "\n"
        try:
            with self._lock:
                assert self._child.stdin is not None
                self._child.stdin.write(line)
                self._child.stdin.flush()
        except (OSError, ValueError):  # it is gone or closed; the listener says how when it is waited for
            if self._closing:
                raise EngineError("the engine is closed") from None

    def _wait(self, number: int | None) -> Mapping[str, Any]:
        """The next message for a call."""
        answers = self._answers[number]
        while True:
            if self._death is not None and answers.empty():
                raise self._death
            try:
                message = answers.get(timeout=min(1.0, self._patience))
            except queue.Empty:
                self._check_life()
                continue
            if message is None:
                continue
            if "error" in message:
                error = message["error"]
                raise ERRORS[error["kind"]](error["message"], where=error["where"], hint=error["hint"])
            return dict(message)

    def _check_life(self) -> None:
        if time.monotonic() - self._heard > self._patience:
            self._child.kill()
            raise EngineError(
                f"the engine gave no sign of life for {self._patience:g} seconds and was stopped",
                hint="a larger runtime option patience, or a smaller model",
            )

    def _listen(self) -> None:
        """Hands the child's answers to whoever waits for them, until it ends."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._heard = time.monotonic()
            try:
                message = json.loads(line)
            except ValueError:  # cut off in the middle by its death
                continue
            if "alive" not in message and message.get("id") in self._answers:
                self._answers[message.get("id")].put(message)
        code = self._child.wait()
        self._threads[1].join(timeout=2)
        self._death = self._obituary(code)
        for each in list(self._answers.values()):
            each.put(None)

    def _overhear(self) -> None:
        assert self._child.stderr is not None
        for line in self._child.stderr:
            if line.strip():
                self._said.append(line.strip())

    def _obituary(self, code: int) -> EngineDied:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = "; ".join(list(self._said)[-4:])
        crashed = code in CRASHES or code >= 0xC0000000  # the latter are Windows' exceptions
        return EngineDied(f"the engine died ({how})" + (f": {said}" if said else ""), crashed=crashed, how=how)


class _Ticket:
    """A call's place in the table of answers, given up at the end of the call."""

    def __init__(self, answers: dict[int | None, queue.SimpleQueue[Any]], number: int) -> None:
        self._answers = answers
        self._number = number

    def __enter__(self) -> int:
        return self._number

    def __exit__(self, *_: object) -> None:
        self._answers.pop(self._number, None)


def resident_memory(pid: int) -> int:
    """Bytes that a process holds: its share of every page (PSS) on Linux, resident size elsewhere."""
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open(encoding="ascii") as file:
            pss = next((line for line in file if line.startswith("Pss:")), None)
        if pss is not None:
            return int(pss.split()[1]) * 1024
    except OSError:
        pass
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    command = ["/bin/ps", "-o", "rss=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a number, no text
    if done.returncode != 0 or not done.stdout.strip():
        raise EngineError("the memory of the engine cannot be measured on this system")
    return int(done.stdout) * 1024
