"""What every plugin has to hold, as plain functions: light to import, honest specs, repeatable steps."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from attrs import fields

from inhouse import Kernel, Recipe
from inhouse.hookspecs import PROJECT
from inhouse.kernel import METHODS
from inhouse.plugins import Registry
from inhouse.specs import SPEC_TYPES, Spec, StageSpec
from inhouse.values import Artifact

LIGHT = {"attr", "attrs", "cattr", "cattrs", "click", "inhouse", "pluggy", "structlog", "typing_extensions"}
SERVICE_METHODS = {
    "runtime": ("open",),
    "embedder": ("embed",),
    "vector_store": ("open", "rebuild", "add", "delete", "search", "count", "flush", "close"),
    "tool": ("call",),
    "agent": ("start",),
    "executor": ("execute",),
}


def check_light(module: str, env: Mapping[str, str] | None = None) -> None:
    """Importing the module that declares specs loads no third-party package beyond the core's."""
    code = (
        "import sys, json, importlib; before = set(sys.modules)\n"
        f"importlib.import_module({module!r})\n"
        "print(json.dumps(sorted({n.partition('.')[0] for n in set(sys.modules) - before})))"
    )
    command = [sys.executable, "-c", code]
    made = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603  our own code
    assert made.returncode == 0, made.stderr
    own = module.partition(".")[0]
    heavy = {each for each in json.loads(made.stdout) if not each.startswith("_")} - sys.stdlib_module_names - LIGHT
    assert heavy <= {own}, f"{module} imports {sorted(heavy - {own})} before any recipe names it"


def specs(module: str) -> list[Spec]:
    """What a plugin module declares."""
    loaded, found = import_module(module), []
    for kind in SPEC_TYPES:
        hook = getattr(loaded, f"inhouse_{kind.kind}s", None)
        if hook is not None and hasattr(hook, f"{PROJECT}_impl"):
            found += list(hook())
    return found


def check_spec(spec: Spec) -> None:
    """The factory imports and has the methods of its kind; every option says what it does."""
    assert spec.summary
    for each in fields(spec.options):
        assert each.metadata.get("help"), f"{spec.name}: option {each.name} has no help"
    module, _, name = spec.factory.partition(":")
    cls = getattr(import_module(module), name)
    for method in (METHODS[spec.kind],) if isinstance(spec, StageSpec) else SERVICE_METHODS[spec.kind]:
        assert callable(getattr(cls, method, None)), f"{spec.factory} has no {method}()"
    if isinstance(spec, StageSpec) and spec.kind != "indexer":
        taken = inspect.signature(getattr(cls, METHODS[spec.kind])).parameters.values()
        room = any(each.kind is each.VAR_POSITIONAL for each in taken)
        assert room or len(taken) == 2 + len(spec.consumes), f"{spec.factory} does not take what it consumes"


def check_stage(
    spec: Spec, inputs: Mapping[str, Path], tmp_path: Path, options: Mapping[str, Any] | None = None
) -> dict[str, Artifact]:
    """Runs the step twice from nothing: same bytes; and once more: found. Returns the products by kind."""
    table = {"stage": spec.kind, "use": spec.name, spec.name: dict(options or {})}
    recipe = Recipe.of({"steps": {"it": table}}, path=tmp_path / "recipe.toml")
    given = {("given", kind): Artifact(kind, path, "given") for kind, path in inputs.items()}
    registry = Registry()
    runs = [Kernel(tmp_path / home, registry=registry).run(recipe, given=given) for home in ("one", "two", "one")]
    made = [{kind: each for (step, kind), each in run.products.items() if step == "it"} for run in runs]
    assert made[0].keys() == set(spec.produces)
    assert {k: a.digest for k, a in made[0].items()} == {k: a.digest for k, a in made[1].items()}, "not repeatable"
    assert [run.record.steps[0].cached for run in runs] == [False, False, True]
    return made[0]
