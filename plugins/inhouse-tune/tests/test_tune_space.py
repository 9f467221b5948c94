"""What is searched: ranges as typed, and values as ``--set`` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from inhouse import Kernel, Recipe
from inhouse.recipe import parse_value
from inhouse_tune.space import Parameter, all_settings, parse_range, search_space
from inhouse_tune.subject import Subject, Value, find_subject, text
from support.distributions import registry
from support.fakes import write_recipe
from support.learner import RECIPE


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = write_recipe(tmp_path, RECIPE)
    plan = Kernel(tmp_path / "home", registry=registry({"learner": "support.learner"})).plan(Recipe.load(path))
    return find_subject(plan, None, [])


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        ("rank=4..64", Parameter("rank", low=4, high=64, whole=True)),
        ("finetune.learn.rank=4..64", Parameter("rank", low=4, high=64, whole=True)),
        (" rank = 4 .. 64 ", Parameter("rank", low=4, high=64, whole=True)),
        ("rank=16,4,16", Parameter("rank", (16, 4))),
        ("learning_rate=1e-4..1e-2", Parameter("learning_rate", low=1e-4, high=1e-2, log=True)),
        ("learning_rate=1e-4..9e-4", Parameter("learning_rate", low=1e-4, high=9e-4)),
        ("alpha=-1..100", Parameter("alpha", low=-1, high=100)),
        ("alpha=8,16", Parameter("alpha", (8.0, 16.0))),
        ("decay=cosine,linear", Parameter("decay", ("cosine", "linear"))),
        ("rslora=true,false", Parameter("rslora", (True, False))),
    ],
)
def test_ranges(subject: Subject, typed: str, made: Parameter) -> None:
    found = parse_range(typed, subject)
    assert found == made
    assert [type(each) for each in found.choices] == [type(each) for each in made.choices]


def test_the_usual_space_has_the_recipes_own_values(subject: Subject) -> None:
    rank, rate, batch = search_space(subject, [])
    assert rank == Parameter("rank", (4, 8, 16, 32))
    assert rate == Parameter("learning_rate", low=1e-4, high=1e-2, log=True)
    assert batch == Parameter("batch_size", (2, 4, 8, 16))


def test_a_rank_of_ones_own_is_among_the_choices(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, RECIPE.replace("rank = 8", "rank = 12"))
    plan = Kernel(tmp_path / "home", registry=registry({"learner": "support.learner"})).plan(Recipe.load(path))
    assert search_space(find_subject(plan, None, []), [])[0].choices == (4, 8, 12, 16, 32)


def test_what_a_space_has() -> None:
    whole, real = Parameter("a", low=1, high=3, whole=True), Parameter("b", low=0.1, high=1.0)
    assert [value for value in (0, 1, 3, 4, True, "1") if whole.has(value)] == [1, 3]
    assert [value for value in (0.1, 1.0, 1.1) if real.has(value)] == [0.1, 1.0]
    assert [value for value in (1, 2, True) if Parameter("c", (1, 3)).has(value)] == [1]
    assert list(all_settings([whole, Parameter("d", ("x", "y"))]) or ()) == [
        (number, word) for number in (1, 2, 3) for word in ("x", "y")
    ]
    assert all_settings([whole, real]) is None


@pytest.mark.parametrize("value", [16, 0.00392, 1e-05, 32.0, True, False, "cosine", "16", "true", "a b", 'say "x"'])
def test_values_come_back_as_they_were(value: Value) -> None:
    assert parse_value(text(value)) == value
    assert type(parse_value(text(value))) is type(value)


def test_sets_replace_what_was_given(subject: Subject) -> None:
    given = ("finetune.learn.rank=4", "seed=3")
    assert subject.sets({"rank": 8}, given) == ["seed=3", "finetune.learn.rank=8"]


def test_the_scale_of_an_adapter_is_kept(subject: Subject) -> None:
    assert subject.with_scale({"rank": 32}) == {"rank": 32, "alpha": 64.0}
    assert subject.with_scale({"rank": 8}) == {"rank": 8}  # the recipe's own: nothing to lay over it
    assert subject.with_scale({"rank": 32, "alpha": 5.0}) == {"rank": 32, "alpha": 5.0}
    assert subject.with_scale({"batch_size": 2}) == {"batch_size": 2}
