"""``inhouse tune``"""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from inhouse.cli.common import (
    emit,
    home_option,
    json_option,
    load_recipe,
    open_kernel,
    set_option,
    stop_on_interrupt,
)
from inhouse.errors import Interrupted, ResourceError
from inhouse.kernel import Kernel
from inhouse.plan import Plan
from inhouse.recipe import Recipe
from inhouse.values import Artifact

from . import plots, show
from .search import Question, Search, best_of
from .space import search_space
from .storage import shown, storage_url
from .study import Row, open_study
from .subject import Subject, Value, find_subject

SHORT = 12
"""Digits of the digest in a study's name."""


@click.command()
@click.argument("recipe", default="recipe.toml")
@click.option("--step", metavar="STEP", help="The trainer step to tune; the last one by default.")
@click.option("--trials", type=click.IntRange(1), default=12, show_default=True, help="Trials in all, old ones too.")
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="KEY=LOW..HIGH|a,b,c",
    help="What to search instead of rank, learning_rate and batch_size, e.g. rank=4..64.",
)
@click.option("--storage", metavar="FILE_OR_URL", help="Where the trials are kept; HOME/tune/NAME.db by default.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="HOME/tune/NAME.png by default.")
@set_option
@home_option
@json_option
def command(
    recipe: str,
    step: str | None,
    trials: int,
    ranges: tuple[str, ...],
    storage: str | None,
    plot: Path | None,
    sets: tuple[str, ...],
    home: str | None,
    as_json: bool,
) -> None:
    """Search for the options of a trainer step of RECIPE that give the lowest held-out loss.

    Each trial is a run; hopeless ones are cut short, and a search that was stopped goes on.
    """
    loaded = load_recipe(recipe, sets)
    text = loaded.path.read_bytes()
    kernel = open_kernel(home)
    cancel = stop_on_interrupt()
    plan = kernel.plan(loaded)
    subject = find_subject(plan, step, sets)
    space = search_space(subject, ranges)
    fixed = subject.measured(frozenset(each.name for each in space))
    _notices(subject, fixed)
    folder = kernel.home / "tune"
    place = folder / f"{loaded.name}-{subject.step.name}"
    picture = _picture(plot, place.with_name(f"{place.name}.png"), folder)
    url = storage_url(storage or str(place.with_name(f"{place.name}.db")), network=loaded.run.network)
    inputs = _inputs(kernel, plan, loaded, subject, cancel)
    question = Question(loaded.path, text, subject, space, sets, fixed, inputs)
    digest = question.digest(loaded)[:SHORT]
    name, owner = f"{loaded.name}-{subject.step.name}-{digest}", f"{platform.node()}:{kernel.home}"
    with (
        kernel.store.lock(f"tune-{digest}", lambda times: _waiting(times, cancel)),
        open_study(url, name, space, seed=loaded.seed, owner=owner) as study,
    ):
        rows = Search(kernel, question, study, owner, cancel, _say, sys.stderr.isatty()).run(trials)
        importance = study.importance()
    _show(rows, question, importance, picture, recipe, home, {"study": name, "storage": shown(url)}, as_json)


def _notices(subject: Subject, fixed: Mapping[str, Value]) -> None:
    for option, value in fixed.items():
        asked = subject.value(option)
        _say(
            f"{subject.path}.{option} is {value} in trials, not {asked}: a hopeless trial is told by measurements "
            f"on its way (--set {subject.path}.{option}={max(asked, 1)} keeps the number)"
        )


def _picture(asked: Path | None, usual: Path, folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot be made: {error.strerror}", where=str(folder), hint="--home FOLDER") from error
    path = (asked or usual).absolute()
    if not path.parent.is_dir() or path.is_dir():
        raise ResourceError("is no place for a file", where=str(path), hint="--plot FILE.png")
    return path


def _inputs(
    kernel: Kernel, plan: Plan, recipe: Recipe, subject: Subject, cancel: threading.Event
) -> dict[tuple[str, str], Artifact]:
    """The products of the steps before; a failure here is none of a trial."""
    names = [each.name for each in plan.steps]
    before = names[: names.index(subject.step.name)]
    if not before:
        return {}
    return kernel.run(recipe, until=before[-1], terminal=sys.stderr.isatty(), cancel=cancel).products


def _waiting(times: int, cancel: threading.Event) -> None:
    if cancel.is_set():
        raise Interrupted("stopped", hint="the same command goes on")
    if times == 1:
        _say("another search is at these trials; waiting for it")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(
    rows: list[Row],
    question: Question,
    importance: Mapping[str, float],
    picture: Path,
    recipe: str,
    home: str | None,
    facts: Mapping[str, Any],
    as_json: bool,
) -> None:
    best = best_of(rows)
    assert best is not None  # the search has said so otherwise
    names = [each.name for each in question.space]
    sets = question.sets(best.params)
    plots.write(picture, plots.draw(rows, best, question.space, f"{question.path.parent.name}: {facts['study']}"))
    line = show.paste(recipe, sets, home)
    if as_json:
        told = {"trials": [show.as_data(each) for each in rows], "best": show.as_data(best), "set": sets}
        emit({**told, "command": line, "importance": importance, "plot": str(picture), **facts})
        return
    show.show_table(rows, names)
    own = next((each for each in rows if each.params == question.own()), None)
    show.show_best(best, own, importance)
    click.echo(f"plot: {picture}")
    click.echo(line)
