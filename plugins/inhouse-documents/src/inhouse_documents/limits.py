"""What the process that parses may take, and what it may do."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from attrs import frozen

REFUSED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.", "ctypes.")
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


PAGES = 100
LONGEST = 10


@frozen
class Limits:
    """``seconds`` of one file, bytes of ``memory`` (address space) of the process, bytes that one file unpacks to."""

    seconds: int
    memory: int
    unpacked: int

    def allowed(self, pages: int = 0) -> int:
        """Seconds for a file of so many pages: as much again for each hundred of them, up to ten times."""
        return self.seconds * min(LONGEST, 1 + pages // PAGES)


def confine(limits: Limits) -> None:
    """From here on this process has no more memory than that, writes no file, starts no process and reaches nothing.

    Memory, files and processes are held by the system; on macOS it does not hold memory. The rest is an audit hook:
    it holds Python code, not machine code that a hole in a parser lets in.
    """
    for name, value in (("AS", limits.memory), ("CORE", 0), ("FSIZE", 0), ("NOFILE", 64), ("NPROC", 0)):
        with contextlib.suppress(ValueError, OSError, AttributeError):  # a system refuses what it does not know
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    sys.dont_write_bytecode = True
    readable = tuple({f"{os.path.realpath(each)}{os.sep}" for each in (sys.prefix, sys.base_prefix, *sys.path) if each})
    sys.addaudithook(lambda event, arguments: _check(event, arguments, readable))


def allow_seconds(seconds: int) -> None:
    """Ends this process when it computes longer than that from now on, also when nobody is left to watch it."""
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds + 1, hard))


def _check(event: str, arguments: Sequence[Any], readable: tuple[str, ...]) -> None:
    if event.startswith(REFUSED):
        raise PermissionError(f"a parser tried {event}")
    if event == "open" and not isinstance(arguments[0], int):  # what is read is handed over open
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if arguments[2] & CHANGES or not path.startswith(readable):
            raise PermissionError(f"a parser tried to open {path}")
