"""``inhouse run``"""

from __future__ import annotations

import sys
from typing import Any

import click

from inhouse.cli.common import emit, home_option, json_option, load_recipe, open_kernel, set_option, stop_on_interrupt


@click.command()
@click.argument("recipe", default="recipe.toml")
@set_option
@click.option("--until", metavar="STEP", help="Stop after this step.")
@click.option("--accept", multiple=True, metavar="GATE", help="Go on although this gate fails; kept in the lineage.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only errors.")
@home_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show log lines.")
def command(
    recipe: str, sets: tuple[str, ...], accept: tuple[str, ...], quiet: bool, as_json: bool, verbose: bool, **more: Any
) -> None:
    """Run RECIPE; finished steps are not run again, a killed one goes on from its checkpoint."""
    loaded = load_recipe(recipe, (*sets, *([f"gates.gates.accept={list(accept)}"] if accept else [])))
    kernel = open_kernel(more["home"], verbose=verbose)
    cancel = stop_on_interrupt()
    terminal = sys.stderr.isatty() and not quiet
    run = kernel.run(loaded, until=more["until"], terminal=terminal, cancel=cancel)
    if as_json:
        emit(run.record)
    elif run.record.bundle:
        click.echo(run.record.bundle)
