"""Puts a bundle where its owner uses it.

<folder>            the bundle, which its owner may change
.<name>.digest      the bundle that was put there last: what the owner did to it since is left alone
<name>.1 …          changed ones that had to make room; none of them is ever touched again
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from inhouse.artifacts import tree_digest, write_text
from inhouse.values import Artifact


def deploy(bundle: Artifact, folder: Path, notice: Callable[[str], None]) -> Path:
    """Copies ``bundle`` out of the store to ``folder``; one there that its owner changed is kept beside it."""
    mark = folder.with_name(f".{folder.name}.digest")
    marked = mark.read_text() if mark.is_file() else None
    if folder.is_dir() and marked == bundle.digest:
        return folder
    aside, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for each in (aside, old):
        shutil.rmtree(each, ignore_errors=True)
    shutil.copytree(bundle.path, aside)
    for path in filter(Path.is_file, aside.rglob("*")):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    there = tree_digest(folder) if folder.exists() else None
    if there in (bundle.digest, marked) and there:  # killed before the mark was written, or unchanged
        folder.rename(old)
    elif there:
        names = (folder.with_name(f"{folder.name}.{number}") for number in count(1))
        kept = next(each for each in names if not each.exists())
        folder.rename(kept)
        notice(f"{folder} was changed since it was made; that one is now {kept.name}")
    aside.rename(folder)
    write_text(mark, bundle.digest)
    shutil.rmtree(old, ignore_errors=True)
    return folder
