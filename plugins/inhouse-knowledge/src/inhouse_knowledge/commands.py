"""``inhouse knowledge``: search, examine and tune the knowledge base that a recipe made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click
from attrs import asdict

from inhouse.cli.common import emit, home_option, json_option, set_option, table
from inhouse.errors import RecipeError
from inhouse.recipe import parse_value
from inhouse.services import LiveServices
from inhouse_knowledge.made import made
from inhouse_knowledge.tuning import command as tune

recipe_option = click.option("--recipe", default="recipe.toml", show_default=True, help="The recipe that made it.")


@click.group()
def command() -> None:
    """Search, examine and tune the knowledge base of a recipe."""


@command.command()
@click.argument("query")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 1000), help="Passages at most.")
@click.option("--where", "filters", multiple=True, metavar="KEY=VALUE", help="Only documents with this metadata.")
@recipe_option
@set_option
@home_option
@json_option
def search(query: str, k: int, filters: Sequence[str], as_json: bool, **more: Any) -> None:
    """Show what the base finds for QUERY, with scores."""
    where: dict[str, list[Any]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise RecipeError("needs KEY=VALUE", where=f"--where {text}", hint="--where tenant=north")
        where.setdefault(key, []).append(parse_value(value))
    found = made(more["recipe"], more["sets"], more["home"])
    with closing(LiveServices(found.plan.answering)) as services:
        passages = services.knowledge(found.artifact).search(query, k, where=where)
    if as_json:
        emit(passages)
        return
    for each in passages:
        page = f" page {each.page}" if each.page else ""
        click.echo(f"{each.score:.3f}  [{each.document}]{page} {each.start}-{each.end}  {each.title}")
        click.echo(f"       {_short(each.text)}")


def _short(text: str, limit: int = 160) -> str:
    line = "".join(each if each.isprintable() else " " for each in " ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


@command.command()
@click.option("--mend", is_flag=True, help="Make the index again where it is wrong.")
@recipe_option
@set_option
@home_option
@json_option
def doctor(mend: bool, as_json: bool, **more: Any) -> None:
    """Compare documents, words, vectors and index with each other; exit 1 when something is wrong and not mended."""
    found = made(more["recipe"], more["sets"], more["home"])
    indexer = found.plan.answering.knowledge
    if indexer is None or not hasattr(instance := indexer.make(), "examine"):
        raise RecipeError("this indexer cannot be examined", where=more["recipe"])
    services = {name: each.make() for name, each in indexer.slots.items()}
    checks = list(instance.examine(found.artifact.path, services, mend=mend))
    if as_json:
        emit([asdict(each) for each in checks])
    else:
        table([(each.name, each.state, each.found) for each in checks], ("what", "state", "found"))
    wrong = [each.name for each in checks if each.state == "wrong"]
    if wrong:
        index_only = wrong == ["index"]
        hint = (
            "inhouse knowledge doctor --mend"
            if index_only
            else f"inhouse artifacts verify, then inhouse run {more['recipe']}"
        )
        click.echo(f"wrong: {', '.join(wrong)}\n  try: {hint}", err=True)
        sys.exit(1)


command.add_command(tune, "tune")
