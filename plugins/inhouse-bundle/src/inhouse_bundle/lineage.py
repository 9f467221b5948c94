"""How a bundle came about: recipe, inputs and files by digest, steps, versions, gates, machine; nothing that says
where it lay. A digest is SHA-256: of a file its bytes, of a folder the "<sha256>  <path>" lines of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from attrs import asdict

from inhouse import codec
from inhouse.artifacts import file_digest, write_text
from inhouse.protocols import Step
from inhouse.values import Artifact, Json, StepRecord

from . import toml
from .places import without_paths
from .resolved import resolve
from .settings import FILES, KNOWLEDGE, MODEL

FORMAT = 2
LINEAGE = "lineage.json"
OWNERS = ("bundle.json", "Modelfile", "README.md")
"""Files that the owner of a bundle may edit, beside those under ``files/``."""

_NO_DIGEST = "0" * 64
_MEASURED = "evaluator"
"""A stage whose products hold measured facts, and are never the same twice."""


def lineage(
    step: Step,
    options: object,
    inputs: Sequence[Artifact],
    *,
    plugins: Mapping[str, str],
    tokens: Mapping[str, Json],
) -> dict[str, Json]:
    """What is known before the bundle is written; ``tokens`` are those of its model, ``options`` the packager's.

    A bundle that was packed from folders, without the steps that made them, has no recipe.
    """
    whole = {each.step for each in inputs} <= {each.name for each in step.history}
    resolved = resolve(step, options, inputs[0].kind) if whole else None
    return {
        "format": FORMAT,
        "name": step.recipe,
        "seed": step.seed,
        "target": asdict(step.target),
        "recipe": toml.dumps(resolved.recipe) if resolved else None,
        "data": resolved.files if resolved else [],
        "inputs": [
            {
                "kind": each.kind,
                "step": each.step,
                "stage": each.stage,
                "digest": each.digest,
                "copied_to": _copied_to(each.kind),
                "meta": without_paths(dict(each.meta)),
            }
            for each in inputs
        ],
        "base": _product(step.history, "model/", "source"),
        "adapter": _product(step.history[::-1], "adapter/", None),
        **tokens,
        "gates": gates(step.history),
        "steps": [{**without_paths(asdict(each)), "seed": step.seed} for each in step.history],
        "answering": dict(plugins),
        "installed": _installed(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
    }


def small(facts: Mapping[str, Json]) -> str:
    """One line of JSON for the model's own metadata: what decides its bytes, nothing measured, so that it is the
    same for the same model."""
    kept = ("format", "name", "seed", "base", "adapter", "tokenizer", "template")
    steps = [
        {name: each[name] for name in ("name", "stage", "backend", "plugin", "fingerprint")}
        | {"products": {} if each["stage"] == _MEASURED else each["products"]}
        for each in facts["steps"]
    ]
    recipe = facts["recipe"]
    return codec.dumps(
        {
            **{name: facts[name] for name in kept},
            "recipe": hashlib.sha256(recipe.encode()).hexdigest() if recipe else None,
            "data": [{name: each[name] for name in ("key", "name", "sha256")} for each in facts["data"]],
            "gates": {
                step: {name: each["passed"] for name, each in found.items()} for step, found in facts["gates"].items()
            },
            "steps": steps,
        }
    )


def write(folder: Path, facts: Mapping[str, Json]) -> str:
    """Writes ``lineage.json`` last: the facts, every other file of the bundle, and the digest of itself.

    ``own_digest`` is the SHA-256 of the file's bytes with 64 zeros in its place. Returns the file's digest.
    """
    files = [
        {
            "path": (relative := path.relative_to(folder).as_posix()),
            "size": path.stat().st_size,
            "sha256": file_digest(path),
            "editable": relative in OWNERS or relative.startswith(f"{FILES}/"),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    whole = {**facts, "files": files, "own_digest": _NO_DIGEST}
    text = json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(folder / LINEAGE, f'"own_digest": "{digest}"'.join(text.rsplit(f'"own_digest": "{_NO_DIGEST}"', 1)))
    return file_digest(folder / LINEAGE)


def gates(history: Sequence[StepRecord]) -> dict[str, dict[str, Json]]:
    """What evaluators noted as ``gates``, by step and name; what is no gate is left out."""
    found = {}
    for record in history:
        noted = record.meta.get("gates")
        read = {
            str(name): {
                "passed": each["passed"],
                "measured": str(each.get("measured", "")),
                "accepted": each.get("accepted") is True,
                **({"state": each["state"]} if isinstance(each.get("state"), str) else {}),
            }
            for name, each in (noted.items() if isinstance(noted, Mapping) else ())
            if isinstance(each, Mapping) and isinstance(each.get("passed"), bool)
        }
        if read:
            found[record.name] = read
    return found


def _copied_to(kind: str) -> str | None:
    """The folder of the bundle that holds just this input; a GGUF has a key more there."""
    if kind == "knowledge":
        return KNOWLEDGE
    return MODEL if kind.startswith("model/") and kind != "model/gguf" else None


def _product(history: Sequence[StepRecord], kind: str, stage: str | None) -> dict[str, Json] | None:
    """The first product of a kind that begins so."""
    for record in history:
        for made, digest in record.products.items():
            if made.startswith(kind) and stage in (None, record.stage):
                return {"step": record.name, "kind": made, "digest": digest}
    return None


def _installed() -> dict[str, str]:
    """inhouse, its plugins, and what these directly need, with versions."""
    found: dict[str, str] = {}
    for point in metadata.entry_points(group="inhouse"):
        if point.dist is None:
            continue
        found[point.dist.name] = point.dist.version
        for line in point.dist.requires or ():
            required = re.match(r"[A-Za-z0-9._-]+", line)
            if required and "extra ==" not in line:
                try:
                    found[required[0]] = metadata.version(required[0])
                except metadata.PackageNotFoundError:
                    continue
    return dict(sorted(found.items()))


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()
