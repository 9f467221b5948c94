"""Copies files into the bundle: contents only, no links, no permissions of the source."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from inhouse.errors import ArtifactError

Tell = Callable[[int, str], None]
"""Called with the bytes of each file that is done, and its name."""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in _files(path))


def copy(
    source: Path,
    target: Path,
    tell: Tell = lambda size, name: None,
    write: Callable[[Path, Path], object] = shutil.copyfile,
) -> None:
    """Copies a file to ``target``, or a folder's files into ``target``, each with ``write(from, to)``.

    Raises ``ArtifactError`` for a symbolic link inside a folder: what it points to is not ours to give away.
    """
    for path in _files(source):
        place = target if path == source else target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        write(path, place)
        tell(place.stat().st_size, place.name)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for each in sorted(path.rglob("*")):
        if each.is_symlink():
            raise ArtifactError("is a symbolic link; a bundle holds files only", where=str(each))
        if each.is_file():
            yield each
