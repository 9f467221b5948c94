"""The answering side of a recipe as ``bundle.json``, with the files it needs brought along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inhouse.errors import RecipeError
from inhouse.values import Json
from inhouse_answer.bundle import FORMAT, BundleSettings

from .copying import copy

MODEL, KNOWLEDGE, FILES = "model", "knowledge", "files"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def bring(
    settings: Mapping[str, Json], folder: Path, *, kind: str, name: str, example: str, knowledge: bool
) -> BundleSettings:
    """What ``bundle.json`` holds for a model of ``kind``; option files are copied to ``folder/files``.

    ``settings`` are those of ``Services.settings()``. A kind that no installed runtime opens is left without.
    """
    runtimes = {kind: settings["runtimes"][kind]} if kind in settings["runtimes"] else {}
    agent, indexer = settings["agent"], settings["knowledge"]
    return BundleSettings(
        format=FORMAT,
        name=name,
        model={"kind": kind, "folder": MODEL},
        target=settings["target"],
        runtimes={key: _bring(each, "runtime", folder) for key, each in runtimes.items()},
        agent=_bring(agent, "agent", folder) if agent else None,
        tools={key: _bring(each, f"tools/{_checked(key)}", folder) for key, each in settings["tools"].items()},
        knowledge=_bring(indexer, "knowledge", folder) if indexer else None,
        knowledge_folder=KNOWLEDGE if knowledge else None,
        example=example or None,
    )


def distributions(settings: BundleSettings) -> dict[str, str]:
    """Distributions that the bundle needs to answer, with the versions it was made with."""
    found = {"inhouse-answer": version("inhouse-answer")}

    def look(choice: Mapping[str, Any] | None) -> None:
        if choice is not None:
            found[str(choice["use"]).partition(":")[0]] = str(choice["version"])
            for each in choice["slots"].values():
                look(each)

    for choice in (settings.agent, settings.knowledge, *settings.runtimes.values(), *settings.tools.values()):
        look(choice)
    return dict(sorted(found.items()))


def _bring(choice: Mapping[str, Any], owner: str, folder: Path) -> dict[str, Json]:
    """One choice with its files, and those of its slots, copied to ``files/<owner>/<option>``."""
    files = {}
    for option, path in choice["files"].items():
        suffix = Path(path).suffix
        relative = f"{FILES}/{owner}/{option}{suffix if _PLAIN.fullmatch(suffix[1:]) else ''}"
        copy(Path(path), folder / relative)
        files[option] = relative
    slots = {slot: _bring(each, f"{owner}/{slot}", folder) for slot, each in choice["slots"].items()}
    return {**choice, "files": files, "slots": slots}


def _checked(name: str) -> str:
    """A tool's name as a folder's name. Raises ``RecipeError``."""
    if not _PLAIN.fullmatch(name):
        raise RecipeError(
            "a bundle keeps a tool's files under its name: letters, digits, - _ . only", where=f"tools.{name}"
        )
    return name
