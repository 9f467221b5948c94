"""The parent's side of the process that parses: starting it, asking it, and replacing it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import IO, BinaryIO

from attrs import asdict

from inhouse.errors import ResourceError
from inhouse_documents.limits import Limits
from inhouse_documents.parsed import Parsed, Refused, loads, pages

PARSING_VERSION = 1
"""Part of what a kept result goes by: bump it when the same file gives another text."""

KINDS = ("pdf", "docx", "html")
LIBRARIES = ("pypdf", "mammoth", "selectolax")
START_SECONDS = 120
CLOSING = 10  # seconds that a child may take to end
SERVED = 1000  # files of one child: what a library leaks does not add up
LOOK = 0.2  # seconds between two looks at whether the user wants to stop
INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
READ = 1 << 20  # bytes
PER_CHARACTER = 6  # most bytes of one in JSON


class _Ended(Exception):
    """The child is gone, or was sent away: ``kind`` and ``reason`` as of ``Refused``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(kind, reason, lasting=False)


class Parser:
    """Parses files in a child process. A context manager; the child goes with it.

    ``waiting`` is called five times a second while the child works, with the page it is at (``page 3 of 9``) or
    nothing; what it raises ends the waiting.
    """

    def __init__(self, limits: Limits, waiting: Callable[[str], None] = lambda _: None) -> None:
        self.limits = limits
        self.waiting = waiting
        self._child: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._said: IO[bytes] | None = None
        self._served = 0
        self._heard = bytearray()

    def identity(self) -> str:
        """What decides the text of a file besides its bytes."""
        libraries = ",".join(f"{each}={version(each)}" for each in LIBRARIES)
        return f"{PARSING_VERSION},{libraries},unpacked={self.limits.unpacked}"

    @property
    def pid(self) -> int | None:
        """Of the child, if there is one."""
        return self._child.pid if self._child else None

    def parse(self, stream: BinaryIO, kind: str) -> Parsed | Refused:
        """The text of an open file, of one of ``KINDS``; the child gets the open file and no path.

        A file at which the child dies is tried once more in a new one, if it was not that one's first: what became
        of it is not the doing of the files before. Raises ``ResourceError`` when no child can be started.
        """
        while True:
            fresh = self._child is None or self._served >= SERVED
            try:
                return self._ask(stream, kind)
            except _Ended as ended:
                self.close()
                if fresh or ended.refused.kind == "time":
                    return ended.refused

    def _ask(self, stream: BinaryIO, kind: str) -> Parsed | Refused:
        if self._served >= SERVED:
            self.close()
        if self._child is None:
            try:
                self._start()
            except (_Ended, OSError) as error:
                raise self._unable(error) from error
        assert self._link is not None
        self._served += 1
        try:
            socket.send_fds(self._link, [json.dumps({"kind": kind}).encode()], [stream.fileno()])
        except OSError as error:
            raise _Ended("crash", "the parser was gone") from error
        try:
            result = self._answer()
        except ValueError as error:
            raise _Ended("crash", f"the parser answered nonsense ({error})") from error
        if isinstance(result, Refused) and result.kind == "memory":
            raise _Ended(result.kind, result.reason)
        return result

    def _answer(self) -> Parsed | Refused:
        begun, seconds, page = time.monotonic(), self.limits.seconds, ""
        while True:
            line = self._line(begun, seconds, page)
            if not line.startswith(b'{"page"'):
                return loads(line)
            number, of = pages(line)
            seconds, page = self.limits.allowed(of), f"page {number} of {of}"
            self.waiting(page)

    def _line(self, begun: float, seconds: float, page: str = "") -> bytes:
        """One line of the child's. Raises ``_Ended`` when there is none so many seconds after ``begun``."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard[-READ:]:
                self.waiting(page)
                if time.monotonic() > begun + seconds:
                    raise _Ended("time", f"takes longer than {seconds:g} seconds to parse")
                if not selector.select(LOOK):
                    continue
                piece = os.read(child.stdout.fileno(), READ)
                if not piece:
                    raise _Ended(*_ending(_code(child), seconds))
                self._heard += piece
                if len(self._heard) > PER_CHARACTER * self.limits.unpacked + READ:
                    raise _Ended("too-large", "the parser does not stop answering")
        line, _, self._heard = self._heard.partition(b"\n")
        return bytes(line)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._link, self._served = ours, 0
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603  (this interpreter, our module, numbers)
                [sys.executable, "-P", "-m", "inhouse_documents.worker", json.dumps(asdict(self.limits))],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=self._said,
                cwd="/",
                env=_environment(os.environ),
            )
            self._line(time.monotonic(), START_SECONDS)

    def _unable(self, error: Exception) -> ResourceError:
        """What the child that does not start said last, and else how it ended."""
        last = ""
        if self._said is not None:
            self._said.seek(0)
            last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        self.close()
        return ResourceError(
            f"the process that parses documents does not start: {last or error}",
            hint="pip install --force-reinstall inhouse-documents, or more memory for it (memory = ...)",
        )

    def close(self) -> None:
        """Ends the child, if there is one, and reaps it."""
        child, link, said = self._child, self._link, self._said
        self._child = self._link = self._said = None
        self._served, self._heard = 0, bytearray()
        if link is not None:
            link.close()
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if said is not None:
            said.close()

    def __enter__(self) -> "Parser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Nothing that the child does not need to find its libraries: no tokens, no proxies."""
    kept = {name: given[name] for name in INHERITED if name in given}
    paths = [os.path.abspath(each) for each in given.get("PYTHONPATH", "").split(os.pathsep) if each]  # noqa: PTH100
    kept["PYTHONHASHSEED"] = "0"  # the same bytes each time, whatever a library keeps in a set
    return kept | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def _code(child: subprocess.Popen[bytes]) -> int:
    """Of a child that has closed its answers; one that goes on all the same is ended."""
    try:
        return child.wait(CLOSING)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _ending(code: int, seconds: float) -> tuple[str, str]:
    """Kind and reason for a child that ended by itself."""
    if code == -signal.SIGXCPU:
        return "time", f"takes longer than {seconds:g} seconds to parse"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return "crash", f"the parser died at it ({how})"
