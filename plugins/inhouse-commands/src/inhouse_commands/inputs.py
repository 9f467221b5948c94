"""The files that a bundle was made of, found again by name and digest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import fields

from inhouse import options as opt
from inhouse.artifacts import tree_digest
from inhouse.errors import DataError
from inhouse.plan import Chosen, Plan
from inhouse.plugins import Registry
from inhouse.values import Json
from inhouse_commands.lineage import shown


def find_inputs(data: Sequence[Mapping[str, Json]], folder: Path, registry: Registry) -> dict[str, Path | None]:
    """Where under ``folder`` the files of a lineage lie, by recipe key; None for one that decides nothing and is not
    there. Hidden folders and links to folders are not looked into.

    Raises ``DataError`` that names every one that is not there, or is there with other content.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=shown(folder), hint="--inputs FOLDER, with the recipe's files in it")
    folder = folder.absolute()
    candidates = _candidates({each["name"] for each in data}, folder)
    digests: dict[Path, str] = {}
    found: dict[str, Path | None] = {}
    problems = []
    for each in data:
        named = [path for path in candidates.get(each["name"], ()) if path.is_dir() == each["folder"]]
        same = next((path for path in named if each["sha256"] in (None, _digest(path, digests))), None)
        if same or _idle(each["key"], registry):
            found[each["key"]] = same
        elif named:
            there = ", ".join(shown(path.relative_to(folder)) for path in named[:3])
            problems.append(f"{shown(each['key'])}: {there} has other content")
        else:
            problems.append(f"{shown(each['key'])}: no {shown(each['name'])}")
    if problems:
        raise DataError(
            f"not the files that the bundle was made of: {'; '.join(problems)}",
            where=shown(folder),
            hint="--inputs FOLDER, with the recipe's files as they were",
        )
    return found


def lay(recipe: dict[str, Any], found: Mapping[str, Path | None], where: str) -> None:
    """Puts the places of files into a recipe's tables. Raises ``DataError`` for a key that is not in it."""
    for key, path in found.items():
        *tables, last = key.split(".")
        here: Any = recipe
        for table in tables:
            here = here.get(table) if isinstance(here, dict) else None
        if not isinstance(here, dict) or last not in here:
            raise DataError(f"its recipe has no {shown(key)!r}", where=where)
        if path is None:
            del here[last]
        else:
            here[last] = str(path)


def only_found(plan: Plan, found: Mapping[str, Path | None], where: str) -> None:
    """Raises ``DataError`` when the recipe reads a file that the lineage does not list."""
    answering = plan.answering
    chosen = [*(step.chosen for step in plan.steps), *answering.runtimes.values(), *answering.tools.values()]
    chosen += [each for each in (answering.agent, answering.knowledge) if each]
    listed = set(found.values())
    for each in _with_slots(chosen):
        for name in opt.paths(each.options):
            path = getattr(each.options, name)
            if path not in listed:
                said = f"its recipe reads {shown(path)} as {each.backend.spec.name}.{name}, which it does not list"
                raise DataError(said, where=where)


def _with_slots(chosen: Sequence[Chosen]) -> Iterator[Chosen]:
    for each in chosen:
        yield each
        yield from _with_slots(list(each.slots.values()))


def _candidates(names: set[str], folder: Path) -> dict[str, list[Path]]:
    """Files and folders of these names, those near the top first."""
    found: dict[str, list[Path]] = {}
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in (*folders, *files):
            if name in names:
                found.setdefault(name, []).append(Path(root, name))
    return {name: sorted(paths, key=lambda path: (len(path.parts), path)) for name, paths in found.items()}


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        try:
            known[path] = tree_digest(path)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=shown(path)) from error
    return known[path]


def _idle(key: str, registry: Registry) -> bool:
    """Whether an option's content does not count in the fingerprint: a log, say."""
    backend, _, name = key.rpartition(".")
    backend = backend.rpartition(".")[2]
    return any(
        each.name == name and each.metadata.get("counts") is False
        for found in registry.all()
        if found.spec.name == backend
        for each in fields(found.spec.options)
    )
