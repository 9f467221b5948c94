"""Paths of this machine, which a bundle keeps out of what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from inhouse.values import Json


def is_place(text: str) -> bool:
    """Whether a text is the absolute path of something that is there.

    Not the root and what lies right below it: a word like ``/tmp`` is hardly data, and much to read.
    """
    try:
        path = Path(text)
        return path.is_absolute() and len(path.parts) > 2 and path.exists()
    except (OSError, ValueError):  # too long, or with a null in it
        return False


def without_paths(value: Json) -> Json:
    """The same data, absolute paths cut to their last name."""
    if isinstance(value, str):
        for path in (PurePosixPath(value), PureWindowsPath(value)):
            if path.is_absolute() and path.name:
                return path.name
        return value
    if isinstance(value, Mapping):
        return {str(key): without_paths(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(each) for each in value]
    return value
