"""``inhouse reproduce``"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from inhouse.artifacts import write_text
from inhouse.cli.common import emit, json_option, open_kernel, stop_on_interrupt, table
from inhouse.errors import DataError
from inhouse.kernel import Kernel
from inhouse.plan import Plan, Planner, key_of
from inhouse.recipe import Recipe
from inhouse.values import Json, StepRecord
from inhouse_commands.diff import recipe_of
from inhouse_commands.inputs import find_inputs, lay, only_found
from inhouse_commands.lineage import LINEAGE, Lineage, read_lineage, shown

HOME = ".inhouse-reproduce"
MARK = "reproduces"
"""A file in the home that says which lineage it is for, so that a run that was killed goes on."""

MEASURED = "evaluator"
"""A stage whose products hold measured facts."""


@frozen
class Compared:
    """One product of a step: ``state`` is same, different, missing, or measured (it may differ)."""

    step: str
    kind: str
    state: str
    expected: str
    found: str


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--inputs", default=".", type=click.Path(), help="Where the recipe's files lie, at any depth [.].")
@click.option("--home", default=HOME, type=click.Path(), help=f"A new folder for what is made [{HOME}].")
@click.option("--until", metavar="STEP", help="Stop after this step.")
@click.option("--network", is_flag=True, help="Allow the network, for a base model from a hub.")
@json_option
def command(bundle: str, inputs: str, home: str, until: str | None, network: bool, as_json: bool) -> None:
    """Make BUNDLE again from its recipe and the same files, and compare what each step makes.

    Exit 0: models, adapters, data and knowledge are the same to the bit. 1: something differs. 2: the files are not
    those it was made of, or it is no bundle. Reports may differ: they hold measured facts.
    """
    lineage = read_lineage(bundle)
    if not network:
        from inhouse.sealed import seal

        seal()
    folder = _fresh(Path(home).absolute(), lineage)
    kernel = open_kernel(str(folder))
    recipe, plan = _recipe(lineage, Path(inputs), kernel, network=network)
    changes = _changes(lineage, plan)
    for line in changes:
        click.echo(f"differs: {line}", err=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARK, lineage.sha256)
    run = kernel.run(recipe, until=until, terminal=sys.stderr.isatty(), cancel=stop_on_interrupt())
    ran = [each.name for each in run.record.steps]
    steps = [each for each in lineage.data["steps"] if until is None or each["name"] in ran]
    rows = compare(steps, run.record.steps)
    same = all(each.state in ("same", "measured") for each in rows)
    if as_json:
        emit({"same": same, "steps": rows, "changes": changes, "bundle": run.record.bundle, "home": str(folder)})
    else:
        _show(rows, lineage, run.record.bundle)
    if not same:
        sys.exit(1)


def compare(expected: Sequence[Mapping[str, Json]], made: Sequence[StepRecord]) -> list[Compared]:
    """Every product of the steps that a lineage lists, beside what was made now."""
    found = {each.name: each.products for each in made}
    rows = []
    for step in expected:
        for kind, digest in step["products"].items():
            now = found.get(step["name"], {}).get(kind)
            state = "missing" if now is None else "same" if now == digest else "different"
            if step["stage"] == MEASURED and state == "different":
                state = "measured"
            rows.append(Compared(shown(step["name"]), shown(kind), state, digest, now or ""))
    return rows


def _fresh(home: Path, lineage: Lineage) -> Path:
    """A home in which nothing was made but by this command for this bundle. Raises ``DataError``."""
    try:
        there = home.is_dir() and any(home.iterdir())
        ours = (home / MARK).read_text(encoding="utf-8") if (home / MARK).is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=shown(home)) from error
    if home.is_file() or (there and ours != lineage.sha256):
        raise DataError("is not new: what lies there would not be made again", where=shown(home), hint="--home FOLDER")
    return home


def _recipe(lineage: Lineage, inputs: Path, kernel: Kernel, *, network: bool) -> tuple[Recipe, Plan]:
    """The recipe with its files in place, and its plan. Raises typed errors before any work."""
    where = shown(lineage.folder / LINEAGE)
    tables = recipe_of(lineage)
    if not tables:
        raise DataError(
            "has no recipe: it was packed from folders, without the steps that made them",
            where=where,
            hint="inhouse verify BUNDLE",
        )
    found = find_inputs(lineage.data["data"], inputs, kernel.registry)
    lay(tables, found, where)
    tables["run"] = {"network": network}
    try:
        recipe = Recipe.of(tables, path=lineage.folder.absolute() / "recipe of the lineage")
        only_found(Planner(recipe, kernel.registry).plan(), found, where)  # before anything is read for a fingerprint
        return recipe, kernel.plan(recipe)
    except RecursionError as error:
        raise DataError("its recipe is nested too deep", where=where) from error


def _changes(lineage: Lineage, plan: Plan) -> list[str]:
    """What is not as it was when the bundle was made, one line each: plugins, packages, and what decides a step."""
    changes = []
    steps = {each["name"]: each for each in lineage.data["steps"]}
    plugins = {}
    for step in plan.steps:
        before = steps.get(step.name)
        backend = step.chosen.backend
        now = f"{backend.distribution} {backend.version}"
        if before is None:
            continue
        plugins[backend.distribution] = True
        if before["plugin"] != now:
            changes.append(f"{step.name} was made by {shown(before['plugin'])}, now {now}")
        if not step.inputs and before["fingerprint"] != key_of(step, [], plan.recipe):
            changes.append(f"what decides step {step.name} (its options, its files, its plugin) is not as it was")
    for name, version in lineage.data["installed"].items():
        there = _version(name)
        if there != version and name not in plugins:
            changes.append(f"{shown(name)} {shown(version)}, now {there or 'not installed'}")
    if lineage.data["python"] != platform.python_version():
        changes.append(f"Python {shown(lineage.data['python'])}, now {platform.python_version()}")
    return changes


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _show(rows: Sequence[Compared], lineage: Lineage, bundle: str | None) -> None:
    cells = [(each.step, each.kind, each.state, each.expected[:12], each.found[:12]) for each in rows]
    table(cells, ("step", "kind", "state", "was", "is"))
    different = sorted({each.step for each in rows if each.state in ("different", "missing")})
    if different:
        data: Mapping[str, Any] = lineage.data
        machine = f"{data['processor'] or data['platform']}, {data['cores']} cores"
        click.echo(f"\nnot the same: {', '.join(different)}; the bundle was made on {shown(machine)}")
    else:
        click.echo("\nthe same to the bit, but for measured facts")
    if bundle:
        click.echo(f"bundle: {bundle}")
