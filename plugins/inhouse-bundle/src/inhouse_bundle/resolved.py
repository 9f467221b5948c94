"""The recipe as it was resolved, and the files it named: what it takes to run it again.

Made of what the packager is given: the steps before it with their options, and the answering side. So layers of
``--set`` and defaults are in it, and comments are not. Files are told by name and digest, never by where they lay.
A step other than the knowledge base does not say which services were in its slots; they are taken to be the usual.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, define, field

from inhouse import codec
from inhouse.artifacts import tree_bytes, tree_digest
from inhouse.protocols import Step
from inhouse.recipe import IMPLIED, STEPS
from inhouse.values import Json, StepRecord

from .places import is_place, without_paths


@define
class Resolved:
    """``recipe`` is the data of the TOML; ``files`` what it names, by recipe key."""

    recipe: dict[str, Json]
    files: list[dict[str, Json]] = field(factory=list)

    def options(self, path: str, given: Mapping[str, Json], files: Mapping[str, str] | None = None) -> dict[str, Json]:
        """A backend's table at the recipe key ``path``. Without ``files`` the options that are paths are found by
        looking: absolute, and there."""
        table = {}
        for name, value in {**given, **(files or {})}.items():
            if name in files if files is not None else isinstance(value, str) and is_place(value):
                self.files.append(described(f"{path}.{name}", Path(value)))
            table[name] = without_paths(value)
        return table

    def choice(self, path: str, chosen: Mapping[str, Any], **words: Json) -> dict[str, Json]:
        """A section for a service of the answering side, with the services in its slots."""
        tables: dict[str, Json] = {}
        for each in (chosen, *chosen["slots"].values()):
            name = _name(each["use"])
            tables[name] = self.options(f"{path}.{name}", each["options"], each["files"])
        slots = {slot: each["use"] for slot, each in chosen["slots"].items()}
        return {"use": chosen["use"], **words, **slots, **tables}


def resolve(step: Step, options: object, kind: str) -> Resolved:
    """The recipe of the run that ``step``, a packager with ``options``, is in; ``kind`` is that of its model."""
    settings = step.services.settings()
    made = Resolved({"name": step.recipe, "seed": step.seed, "target": asdict(step.target)})
    indexer = settings["knowledge"]
    sections: list[tuple[str, str, dict[str, Json]]] = []
    for record in step.history:
        path = record.name if record.name in STEPS else f"steps.{record.name}"
        if record.stage == "indexer" and indexer and indexer["use"] == _use(record):
            section, indexer = made.choice(path, indexer), None  # the answering side opens the first
        else:
            given = json.loads(codec.dumps(record.options))  # in the order that one from the store has
            table = made.options(f"{path}.{record.backend}", given)
            section = {"use": _use(record), record.backend: table}
        sections.append((record.name, record.stage, section))
    own = {"use": "folder", "folder": codec.converter.unstructure(options)}
    _place(made.recipe, [*sections, (step.name, "packager", own)])
    for name, cause in IMPLIED.items():
        if cause in made.recipe:
            made.recipe.setdefault(name, False)  # the run went without it
    _answering(made, settings, kind)
    return made


def described(key: str, path: Path) -> dict[str, Json]:
    """A file or folder by recipe key, name and digest; the digest is that of the fingerprints."""
    there = path.exists()
    files = sum(each.is_file() for each in path.rglob("*")) if path.is_dir() else int(there)
    return {
        "key": key,
        "name": path.name,
        "folder": path.is_dir(),
        "files": files,
        "bytes": tree_bytes(path) if there else 0,
        "sha256": tree_digest(path) if there else None,
    }


def _answering(made: Resolved, settings: Mapping[str, Any], kind: str) -> None:
    runtimes = settings["runtimes"]
    if runtimes:
        # A recipe names one; of several in use the others are the only ones installed for their kinds.
        first = runtimes.get(kind) or next(iter(runtimes.values()))
        made.recipe["runtime"] = made.choice("runtime", first)
        for each in {each["use"]: each for each in runtimes.values() if each["use"] != first["use"]}.values():
            name = _name(each["use"])
            made.recipe["runtime"][name] = made.options(f"runtime.{name}", each["options"], each["files"])
    if settings["agent"]:
        made.recipe["agent"] = made.choice("agent", settings["agent"], tools=list(settings["tools"]))
        made.recipe["tools"] = {
            name: {"use": each["use"], **made.options(f"tools.{name}", each["options"], each["files"])}
            for name, each in settings["tools"].items()
        }


def _place(recipe: dict[str, Json], sections: list[tuple[str, str, dict[str, Json]]]) -> None:
    """Usual steps by their names, the others under ``steps`` with the neighbour that places them."""
    first = next((name for name, _, _ in sections if name in STEPS), None)
    before: str | None = None
    for name, stage, section in sections:
        if name in STEPS:
            recipe[name] = section
        else:
            where = {"after": before} if before else {"before": first} if first else {}
            recipe.setdefault("steps", {})[name] = {"stage": stage, **where, **section}
        before = name


def _use(record: StepRecord) -> str:
    distribution = record.plugin.rpartition(" ")[0]
    return f"{distribution}:{record.backend}" if distribution else record.backend


def _name(use: str) -> str:
    return str(use).rpartition(":")[2]
