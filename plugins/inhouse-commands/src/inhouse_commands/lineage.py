"""A bundle's ``lineage.json``, read as what it may be: written by anybody.

It has to have the form that the packager gives it, whatever it says; no path in it is ever opened. What is compared
with it is found by walking the bundle, which follows no link.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from inhouse.errors import DataError
from inhouse.values import Json
from inhouse_commands.shape import Shape, wrong

LINEAGE = "lineage.json"
FORMAT = 2
LARGEST = 16 << 20
"""Bytes of a ``lineage.json`` that is read."""

_NO_DIGEST = "0" * 64


@frozen
class Listed:
    """A file as the lineage lists it. ``editable`` files are the owner's to edit."""

    path: str
    size: int
    sha256: str
    editable: bool


@frozen
class Lineage:
    """What a bundle says of itself. ``data`` is the whole of the JSON object, of the right form; ``sha256`` that
    of the file; ``own`` the digest that it states of itself, and ``found`` the one that it has."""

    folder: Path
    data: Mapping[str, Json]
    files: Mapping[str, Listed]
    sha256: str
    own: str
    found: str


@frozen
class Found:
    """What lies in a bundle: its path inside, bytes, and whether it is a plain file (no link, no device)."""

    path: str
    size: int
    plain: bool


def read_lineage(folder: str | Path) -> Lineage:
    """Reads ``lineage.json``. Raises ``DataError`` for what is no bundle."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError("is no bundle (no such folder)", where=shown(root))
    where = shown(root / LINEAGE)
    content = read_file(root / LINEAGE, LARGEST)
    if content is None:
        raise DataError(f"is no bundle (it has no {LINEAGE})", where=shown(root), hint="inhouse run RECIPE")
    try:
        text = content.decode()
        data: Json = json.loads(text, parse_constant=_refuse)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise _damaged(f"no JSON: {_line(error)}", where) from error
    if not isinstance(data, dict):
        raise _damaged("no JSON object", where)
    if data.get("format") != FORMAT:
        raise DataError(
            f"has format {str(data.get('format'))[:20]!r}, this inhouse-commands reads {FORMAT}",
            where=where,
            hint="make the bundle again: inhouse run RECIPE",
        )
    said = wrong(data, SHAPE)
    if said:
        raise _damaged(said, where)
    own = data["own_digest"]
    blank = text.replace(f'"own_digest": "{own}"', f'"own_digest": "{_NO_DIGEST}"')
    return Lineage(
        folder=root,
        data=data,
        files=_listed(data["files"], where),
        sha256=hashlib.sha256(content).hexdigest(),
        own=own,
        found=hashlib.sha256(blank.encode()).hexdigest(),
    )


def read_file(path: Path, largest: int) -> bytes | None:
    """The bytes of a plain file of at most ``largest``; None where there is none. Raises ``DataError``."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        linked = path.is_symlink()
        raise DataError("is a link" if linked else f"cannot be read: {error.strerror}", where=shown(path)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError("is no plain file", where=shown(path))
    with os.fdopen(handle, "rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise DataError(f"has more than {largest >> 20} MiB", where=shown(path))
    return content


def walk(folder: Path) -> dict[str, Found]:
    """Everything in a bundle but folders, by path; links are told, not followed. Raises ``DataError``."""
    found: dict[str, Found] = {}
    folders = [""]
    while folders:
        inside = folders.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for each in entries:
                    path = f"{inside}{each.name}"
                    if each.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                    else:
                        plain = each.is_file(follow_symlinks=False)
                        found[path] = Found(path, each.stat(follow_symlinks=False).st_size, plain)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=shown(folder / inside)) from error
    return dict(sorted(found.items()))


def shown(text: object) -> str:
    """Text for one line of a terminal: what is not printable, escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def _listed(files: list[dict[str, Any]], where: str) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    for each in files:
        listed = Listed(**each)
        if not _inside(listed.path):
            raise _damaged(f"it lists {listed.path[:80]!r}, which is no path inside a bundle", where)
        if listed.path in found:
            raise _damaged(f"it lists {listed.path[:80]!r} twice", where)
        found[listed.path] = listed
    return found


def _inside(path: str) -> bool:
    """Plain relative names; the lineage cannot list itself."""
    parts = path.split("/")
    return path != LINEAGE and len(path) < 4096 and "\0" not in path and not {"", ".", ".."} & set(parts)


def _damaged(what: str, where: str) -> DataError:
    return DataError(
        f"is no lineage of a bundle: {what}",
        where=where,
        hint="take a copy of the bundle that is whole, or make it again: inhouse run RECIPE",
    )


def _line(error: Exception) -> str:
    """The first line of what an error says; a JSON file that is deep enough ends in a ``RecursionError``."""
    return shown(str(error).partition("\n")[0][:120])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


_DIGEST = Shape(str, pattern="[0-9a-f]{64}")
_TEXT, _WHOLE, _TRUTH, _TABLE = Shape(str), Shape(int), Shape(bool), Shape(dict)
_TEXTS = Shape(dict, each=_TEXT)
_PRODUCT = Shape(dict, fields={"step": _TEXT, "kind": _TEXT, "digest": _DIGEST}, null=True)
_KEPT = Shape(dict, fields={"file": _TEXT, "sha256": _DIGEST}, null=True)
_GATE = Shape(dict, fields={"passed": _TRUTH, "measured": _TEXT, "accepted": _TRUTH})
_NAMED = {"key": _TEXT, "name": _TEXT, "folder": _TRUTH, "sha256": Shape(str, pattern="[0-9a-f]{64}", null=True)}
_STEP = {
    **dict.fromkeys(("name", "stage", "backend", "plugin", "fingerprint"), _TEXT),
    "options": _TABLE,
    "products": Shape(dict, each=_DIGEST),
    "seed": _WHOLE,
}
_INPUT = {"kind": _TEXT, "step": _TEXT, "digest": _DIGEST, "copied_to": Shape(str, null=True)}
_FILE = {"path": _TEXT, "size": _WHOLE, "sha256": _DIGEST, "editable": _TRUTH}
SHAPE = Shape(
    dict,
    fields={
        "name": _TEXT,
        "seed": _WHOLE,
        "target": Shape(dict, each=_WHOLE),
        "recipe": Shape(str, null=True),
        "data": Shape(list, each=Shape(dict, fields=_NAMED)),
        "inputs": Shape(list, each=Shape(dict, fields=_INPUT)),
        "base": _PRODUCT,
        "adapter": _PRODUCT,
        "tokenizer": _KEPT,
        "template": _KEPT,
        "gates": Shape(dict, each=Shape(dict, each=_GATE)),
        "steps": Shape(list, each=Shape(dict, fields=_STEP)),
        "answering": _TEXTS,
        "installed": _TEXTS,
        **dict.fromkeys(("python", "platform", "processor"), _TEXT),
        "cores": _WHOLE,
        "files": Shape(list, each=Shape(dict, fields=_FILE, only=True)),
        "own_digest": _DIGEST,
    },
)
"""The form of ``lineage.json``. More keys may be there, but for those of a file."""
