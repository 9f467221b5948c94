"""``inhouse config``"""

from __future__ import annotations

from typing import Any

import click
from attrs import fields

from inhouse.cli.common import emit, home_option, json_option, load_recipe, open_kernel, set_option, table
from inhouse.plan import Chosen, Plan


@click.command()
@click.argument("recipe", default="recipe.toml")
@set_option
@home_option
@json_option
def command(recipe: str, sets: tuple[str, ...], home: str | None, as_json: bool) -> None:
    """Show every value of RECIPE and where it came from."""
    plan = open_kernel(home).plan(load_recipe(recipe, sets))
    rows = _rows(plan)
    if as_json:
        emit({key: {"value": value, "from": origin} for key, value, origin in rows})
    else:
        table(rows, ("key", "value", "from"))


def _rows(plan: Plan) -> list[tuple[str, Any, str]]:
    recipe = plan.recipe
    rows: list[tuple[str, Any, str]] = [("seed", recipe.seed, recipe.origins.get("seed", "default"))]
    for name in ("memory", "context", "threads"):
        key = f"target.{name}"
        rows.append((key, getattr(recipe.target, name), recipe.origins.get(key, "default")))
    for step, section in zip(plan.steps, recipe.steps, strict=True):
        rows += _of(section.section.path, step.chosen, recipe.origins)
    if plan.answering.agent:
        rows += _of("agent", plan.answering.agent, recipe.origins)
    for name, tool in plan.answering.tools.items():
        rows += _of(f"tools.{name}", tool, recipe.origins, flat=True)
    return rows


def _of(path: str, chosen: Chosen, origins: Any, *, flat: bool = False) -> list[tuple[str, Any, str]]:
    name = chosen.backend.spec.name
    rows: list[tuple[str, Any, str]] = [(f"{path}.use", name, origins.get(f"{path}.use", "default"))]
    prefix = path if flat else f"{path}.{name}"
    for each in fields(type(chosen.options)):
        key = f"{prefix}.{each.name}"
        value = getattr(chosen.options, each.name)
        rows.append(
            (
                key,
                value if isinstance(value, (int, float, str, bool, type(None))) else str(value),
                origins.get(key, "default"),
            )
        )
    for slot, service in chosen.slots.items():
        rows.append((f"{path}.{slot}", service.backend.spec.name, origins.get(f"{path}.{slot}", "default")))
        rows += _of(path, service, origins)[1:]
    return rows
