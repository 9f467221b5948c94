"""``inhouse plan``"""

from __future__ import annotations

import click

from inhouse.cli.common import (
    emit,
    home_option,
    json_option,
    load_recipe,
    open_kernel,
    set_option,
    table,
)
from inhouse.plan import disk_needed
from inhouse_commands.units import human_bytes


@click.command()
@click.argument("recipe", default="recipe.toml")
@set_option
@home_option
@json_option
def command(recipe: str, sets: tuple[str, ...], home: str | None, as_json: bool) -> None:
    """Show what RECIPE would run, what is cached, and the disk it needs, without doing any of it."""
    kernel = open_kernel(home)
    plan = kernel.plan(load_recipe(recipe, sets))
    done = kernel.cached(plan)
    needed = disk_needed(plan, done)
    rows = [
        {
            "name": step.name,
            "stage": step.stage,
            "backend": step.chosen.backend.spec.name,
            "plugin": f"{step.chosen.backend.distribution} {step.chosen.backend.version}",
            "takes": sorted({kind for group in step.inputs if group for _, kind in group}),
            "makes": list(step.produces),
            "cached": step.name in done,
            "seconds_last": done[step.name].seconds if step.name in done else None,
        }
        for step in plan.steps
    ]
    if as_json:
        emit({"recipe": plan.recipe.name, "steps": rows, "disk_bytes": needed})
        return
    shown = [
        (r["name"], r["backend"], r["plugin"], "cached" if r["cached"] else "will run", ", ".join(step.produces))
        for r, step in zip(rows, plan.steps, strict=True)
    ]
    table(shown, ("step", "backend", "plugin", "state", "makes"))
    click.echo(f"\ndisk: {human_bytes(needed)} will be written")
