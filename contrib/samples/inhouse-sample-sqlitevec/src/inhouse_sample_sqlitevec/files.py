"""The table on disk: ``sqlite-vec-<digest>.db``, a database file that is named for its own SHA-256.

It is written aside, synced, renamed and never changed: killed at any point, a file with that name is whole. SQLite
itself does not notice a bit that fell over within a vector; the name does.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import apsw
import sqlite_vec  # type: ignore[import-untyped]

from inhouse_sample_sqlitevec.table import Table

FORMAT = 1
FILES = "sqlite-vec-*.db"
PARTS = ".sqlite-vec-*.part*"


def facts(dimension: int, generation: int) -> dict[str, str | int]:
    """What a file must say of itself to be used. ``vec0`` tables are not promised to stay as they are."""
    version = str(sqlite_vec.__version__)
    return {"format": FORMAT, "dimension": dimension, "generation": str(generation), "sqlite_vec": version}


def save(table: Table, folder: Path, *, generation: int) -> Path:
    """Writes ``table`` as that of ``generation``. Raises ``OSError`` or ``apsw.Error``; the old file is whole then."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    table.label(facts(table.dimension, generation))
    aside = folder / f".sqlite-vec-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        table.write(aside)
        _sync(aside, os.O_RDWR)
        path = folder / _name(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(folder, os.O_RDONLY)
    for old in folder.glob(FILES):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def load(folder: Path, *, dimension: int, generation: int, cache: int) -> Table | None:
    """The table kept in ``folder``; ``None`` when it is missing, damaged, or not of these :func:`facts`."""
    for path in sorted(folder.glob(FILES)):
        try:
            if path.name != _name(path):
                continue
            table = Table.opened(path, dimension, cache)
            if table.facts() == facts(dimension, generation):
                return table
            table.close()
        except (OSError, apsw.Error):
            continue
    return None


def _name(path: Path) -> str:
    with path.open("rb") as file:
        return f"sqlite-vec-{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}.db"


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half written."""
    for part in folder.glob(PARTS):
        owner = part.name.split("-")[2]
        if not (owner.isdecimal() and Path("/proc").is_dir() and Path("/proc", owner).exists()):
            part.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
