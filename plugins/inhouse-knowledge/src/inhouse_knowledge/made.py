"""The knowledge base of a recipe, for the commands: which step makes it, and what it made."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from inhouse.cli.common import load_recipe, open_kernel
from inhouse.errors import RecipeError
from inhouse.plan import Plan, PlannedStep
from inhouse.values import Artifact


@frozen
class Made:
    """A plan, and the artifact of its indexer."""

    plan: Plan
    artifact: Artifact


def indexer_of(plan: Plan, recipe: str) -> PlannedStep:
    """The step that makes the base. Raises ``RecipeError`` when there is none."""
    step = next((each for each in plan.steps if each.stage == "indexer"), None)
    if step is None:
        raise RecipeError("the recipe has no knowledge base", where=recipe, hint='[knowledge] use = "sqlite"')
    return step


def needed(plan: Plan, step: PlannedStep) -> frozenset[str]:
    """Names of the step and of those that it takes from: nothing is trained to make a knowledge base."""
    names = {step.name}
    for each in reversed(plan.steps):
        if each.name in names:
            names |= {name for group in each.inputs if group for name, _ in group}
    return frozenset(names)


def made(recipe: str, sets: Sequence[str], home: str | None) -> Made:
    """The base in the store. Raises ``RecipeError`` when the recipe has none, or it is not there yet."""
    kernel = open_kernel(home)
    plan = kernel.plan(load_recipe(recipe, sets))
    step = indexer_of(plan, recipe)
    manifest = kernel.cached(plan).get(step.name)
    if manifest is None:
        raise RecipeError(
            "the knowledge base is not made yet", where=recipe, hint=f"inhouse run {recipe} --until {step.name}"
        )
    return Made(plan, kernel.store.artifacts(manifest)[0])
