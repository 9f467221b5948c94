"""The files of a folder, in the order of their paths; nothing that leads out of it, nothing hidden."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from inhouse.errors import DataError
from inhouse_documents.findings import Findings, Place
from inhouse_documents.sniff import SUFFIXES

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def files(root: Path, findings: Findings) -> list[Place]:
    """The file itself, or the files under a folder. What is not read goes into ``findings``.

    Links below the folder are not followed, wherever they lead. Raises ``DataError`` when there is no file.
    """
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"documents come as {', '.join(SUFFIXES)}, this is {root.suffix or 'without a suffix'}", where=str(root)
            )
        return [Place(root.resolve(), _shown(root.name))]  # what the user names may be a link
    if not root.is_dir():
        raise DataError("no such file or folder", where=str(root))
    found = sorted(_walk(root, findings), key=lambda place: (place.name, str(place.path)))
    if not found:
        raise DataError(f"no {', '.join(SUFFIXES)} in this folder", where=str(root))
    return found


def opened(place: Place) -> BufferedReader:
    """The file, open for reading. Raises ``OSError`` for one that cannot be read or that became a link or a pipe."""
    handle = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "is no file")
    return os.fdopen(handle, "rb")


def _walk(root: Path, findings: Findings) -> Iterator[Place]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            findings.add("unreadable", _place(root, folder), f"the folder cannot be read: {error.strerror}")
            continue
        for entry in entries:
            place = _place(root, folder / entry.name)
            if entry.name.startswith("."):
                findings.add("hidden", place, "is hidden")
            elif entry.is_symlink():
                findings.add("link", place, "is a link; links are not followed")
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(folder / entry.name)
            elif not entry.is_file(follow_symlinks=False):
                findings.add("special", place, "is no file")
            elif place.path.suffix.lower() not in SUFFIXES:
                findings.add("other-kind", place, "is not of a kind that is read")
            else:
                yield place


def _place(root: Path, path: Path) -> Place:
    return Place(path, _shown(path.relative_to(root).as_posix()))


def _shown(name: str) -> str:
    """A name that can be printed and stored: bytes that are no UTF-8, and control characters, as ``\\x1b``."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
