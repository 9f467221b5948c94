"""``inhouse knowledge tune``: legs, weights and chunk sizes measured on questions."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import evolve, frozen

from inhouse.cli.common import (
    emit,
    home_option,
    json_option,
    load_recipe,
    open_kernel,
    set_option,
    stop_on_interrupt,
    table,
)
from inhouse.errors import DataError, Interrupted, RecipeError
from inhouse.kernel import Kernel
from inhouse.plan import Chosen, Plan, PlannedStep
from inhouse.services import LiveServices
from inhouse.values import Artifact
from inhouse_knowledge import Options
from inhouse_knowledge.made import indexer_of, needed
from inhouse_knowledge.quality import Question, Score, best, made_questions, measure, read_questions
from inhouse_knowledge.search import SqliteKnowledge

FEW = 30
"""Questions below which a difference is mostly chance."""


@frozen
class Row:
    """A score, and the chunk size and the store's ``ef_search`` (None: the recipe's) that it belongs to."""

    chunk_tokens: int
    ef: int | None
    score: Score


@frozen
class Subject:
    """Whose base is tuned: the recipe with its ``--set`` values, and the home of its store."""

    recipe: str
    sets: tuple[str, ...]
    home: str | None

    def plan(self, kernel: Kernel, *more: str) -> Plan:
        """The plan, with further values set."""
        return kernel.plan(load_recipe(self.recipe, (*self.sets, *more)))


@click.command()
@click.argument("questions", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", default="recipe.toml", show_default=True, help="The recipe whose base is tuned.")
@click.option("--chunk-tokens", "sizes", metavar="N,N", default="", help="Chunk sizes to try besides the recipe's.")
@click.option("--ef", "efs", metavar="N,N", default="", help="Values of the vector store's ef_search to try.")
@click.option("--made", default=200, show_default=True, help="Without QUESTIONS: how many are made, at most.")
@set_option
@home_option
@json_option
def command(
    questions: Path | None,
    recipe: str,
    sizes: str,
    efs: str,
    made: int,
    sets: tuple[str, ...],
    home: str | None,
    as_json: bool,
) -> None:
    """Measure the search of RECIPE on QUESTIONS (JSON lines: question, document or documents), and say what is best.

    Words and vectors alone, and both by weight, for each chunk size and ef; both win only where they measure better,
    and of what measures the same the smallest ef. Without QUESTIONS they are made from passages, each answered by the
    other passages of its document.
    """
    cancel, kernel, subject = stop_on_interrupt(), open_kernel(home), Subject(recipe, sets, home)
    path, own = _own(subject.plan(kernel), recipe)
    rows: list[Row] = []
    count = 0
    for size in _sizes(sizes, own.chunk_tokens, alone=questions is None):
        found = _found(kernel, subject, f"{path}.chunk_tokens={size}", cancel)
        with found.open() as base:
            asked, tried = _asked(questions, base, made), _efs(efs, found, base.count())
        count = len(asked)
        for ef in tried:
            with found.open(ef) as base:
                rows += [Row(size, ef, each) for each in measure(base, asked, _Progress(size, count, cancel))]
    winner = best([each.score for each in rows])
    won = next(each for each in rows if each.score is winner)
    if as_json:
        emit({"questions": count, "rows": [_plain(each) for each in rows], "best": _plain(won)})
        return
    table(
        [_cells(row, won) for row in rows],
        ("chunk_tokens", "ef", "dense", "lexical", "recall@1", "recall@5", "nDCG@10", "ms", ""),
    )
    _conclude([each for each in rows if each.ef in (None, found.ef)], won, own, count)
    click.echo(_paste(subject, path, f"{path.rpartition('.')[0]}.{found.store.backend.spec.name}", won))


def _own(plan: Plan, recipe: str) -> tuple[str, Options]:
    """The recipe path of the indexer's options, and what they are."""
    step = indexer_of(plan, recipe)
    if not isinstance(step.chosen.options, Options):
        raise RecipeError("only the indexer sqlite can be tuned", where=recipe)
    section = next(each.section for each in plan.recipe.steps if each.name == step.name)
    return f"{section.path}.{step.chosen.backend.spec.name}", step.chosen.options


def _sizes(text: str, own: int, *, alone: bool) -> list[int]:
    values = _numbers(text, "--chunk-tokens")
    if values and alone:
        raise RecipeError(
            "questions made from passages differ with the chunk size, so sizes cannot be compared by them",
            where="--chunk-tokens",
            hint="inhouse knowledge tune QUESTIONS.jsonl --chunk-tokens 100,300",
        )
    return list(dict.fromkeys([own, *values]))


def _numbers(text: str, option: str) -> list[int]:
    words = [each.strip() for each in text.split(",") if each.strip()]
    if not all(each.isdecimal() for each in words):
        raise RecipeError(f"{text!r} is no list of numbers", where=option, hint=f"{option} 100,300")
    return [int(each) for each in words]


@frozen
class Found:
    """A base with one chunk size, and the plan that made it."""

    plan: Plan
    step: PlannedStep
    artifact: Artifact

    @property
    def store(self) -> Chosen:
        """The vector store of the recipe."""
        return self.step.chosen.slots["vector_store"]

    @property
    def ef(self) -> int | None:
        """The recipe's ``ef_search``; None for a store that has none."""
        value: int | None = getattr(self.store.options, "ef_search", None)
        return value

    @contextmanager
    def open(self, ef: int | None = None) -> Iterator[SqliteKnowledge]:
        """The base with both legs, and with this ``ef_search``."""
        store = self.store if ef is None else evolve(self.store, options=evolve(self.store.options, ef_search=ef))
        both = evolve(
            self.step.chosen,
            options=evolve(self.step.chosen.options, dense_weight=1.0, lexical_weight=1.0),
            slots={**self.step.chosen.slots, "vector_store": store},
        )
        with closing(LiveServices(evolve(self.plan.answering, knowledge=both))) as services:
            base = services.knowledge(self.artifact)
            assert isinstance(base, SqliteKnowledge)
            yield base


def _found(kernel: Kernel, subject: Subject, setting: str, cancel: threading.Event) -> Found:
    """The base with this setting, made if it is not there."""
    plan = subject.plan(kernel, setting)
    step = indexer_of(plan, subject.recipe)
    manifest = kernel.cached(plan).get(step.name)
    if manifest is not None:
        return Found(plan, step, kernel.store.artifacts(manifest)[0])
    names = needed(plan, step)
    recipe = evolve(plan.recipe, steps=tuple(each for each in plan.recipe.steps if each.name in names))
    return Found(plan, step, kernel.run(recipe, terminal=sys.stderr.isatty(), cancel=cancel)[step.name])


def _efs(text: str, found: Found, count: int) -> Sequence[int | None]:
    """The values to try, ascending; only the recipe's where none are given, or none would change what is found."""
    values = _numbers(text, "--ef")
    if not values:
        return [None]
    name = found.store.backend.spec.name
    if found.ef is None:
        raise RecipeError(f"the vector store {name} has no ef_search", where="--ef", hint='vector_store = "hnswlib"')
    if min(values) < 1:
        raise RecipeError("ef_search is at least 1", where="--ef")
    exact = getattr(found.store.options, "exact_below", 0)
    if count <= exact:
        click.echo(f"{name} compares with each of {count} passages (exact_below = {exact}): no ef to try", err=True)
        return [None]
    return sorted({found.ef, *values})


def _asked(path: Path | None, base: SqliteKnowledge, most: int) -> list[Question]:
    if path is not None:
        return read_questions(path, base.reader.owners())
    made = made_questions(base.reader, most, seed=0)
    if not made:
        raise DataError(
            "no question can be made: no document has two passages",
            hint='a file of lines {"question": "…", "document": "…"}: inhouse knowledge tune QUESTIONS.jsonl',
        )
    click.echo(f"{len(made)} questions made from passages; your own would say more", err=True)
    return made


class _Progress:
    """Says on a terminal at which question it is; raises ``Interrupted`` when the user asked to stop."""

    def __init__(self, size: int, count: int, cancel: threading.Event) -> None:
        self.size, self.count, self.cancel = size, count, cancel

    def __call__(self, done: int) -> None:
        if self.cancel.is_set():
            raise Interrupted("stopped; the bases that were made are kept", hint="run the same command again")
        if sys.stderr.isatty():
            told = f"chunks of {self.size} tokens: question {done} of {self.count}" if done < self.count else ""
            click.echo(f"\r\x1b[K{told}", nl=False, err=True)


def _plain(row: Row) -> dict[str, Any]:
    score = row.score
    return {
        "chunk_tokens": row.chunk_tokens,
        "ef_search": row.ef,
        "dense_weight": score.dense_weight,
        "lexical_weight": score.lexical_weight,
        "recall_1": score.recall_1,
        "recall_5": score.recall_5,
        "ndcg_10": score.ndcg_10,
        "seconds": score.seconds,
    }


def _cells(row: Row, won: Row) -> tuple[object, ...]:
    score = row.score
    figures = (f"{each:.3f}" for each in (score.recall_1, score.recall_5, score.ndcg_10))
    return (
        row.chunk_tokens,
        row.ef or "",
        score.dense_weight,
        score.lexical_weight,
        *figures,
        f"{1000 * score.seconds:.1f}",
        "best" if row is won else "",
    )


def _conclude(rows: Sequence[Row], won: Row, own: Options, count: int) -> None:
    """The winner beside the recipe's own ratio of weights, where that was measured, and how many questions decide."""
    ratio = own.lexical_weight / own.dense_weight if own.dense_weight else None
    mine = next(
        (
            each
            for each in rows
            if each.chunk_tokens == own.chunk_tokens
            and (each.score.lexical_weight / each.score.dense_weight if each.score.dense_weight else None) == ratio
        ),
        None,
    )
    if mine is not None and mine is not won:
        pairs = list(zip(won.score.gains, mine.score.gains, strict=True))
        better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        click.echo(f"\nagainst the recipe's own setting: {better} questions better, {worse} worse, of {count}")
    if count < FEW:
        click.echo(f"{count} questions are few: a difference of one is chance", err=True)


def _paste(subject: Subject, path: str, store: str, won: Row) -> str:
    """The command that runs the recipe with the winner, as a shell reads it."""
    values = _plain(won)
    wanted = [f"{path}.{name}={values[name]:g}" for name in ("chunk_tokens", "dense_weight", "lexical_weight")]
    wanted += [f"{store}.ef_search={won.ef}"] if won.ef else []
    words = ["inhouse", "run", subject.recipe, *(word for each in (*subject.sets, *wanted) for word in ("--set", each))]
    return shlex.join([*words, "--home", subject.home] if subject.home else words)
