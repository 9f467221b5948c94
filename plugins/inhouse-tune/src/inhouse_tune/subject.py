"""The step that is tuned: its options as the recipe has them, and what a trial lays over them."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from attrs import fields, frozen

from inhouse import options as opt
from inhouse.errors import RecipeError
from inhouse.plan import Plan, PlannedStep
from inhouse.recipe import parse_value, unknown

Value: TypeAlias = bool | int | float | str
"""What a searched option may be."""

EVALUATIONS = 4
"""Measurements of the held-out loss in an epoch, where the recipe asks for fewer than two."""


@frozen
class Subject:
    """A trainer step of a recipe.

    ``path`` is the dotted key of its backend's table (``finetune.lora``), ``table`` that table, ``held``
    the options that the user holds by ``--set``.
    """

    step: PlannedStep
    path: str
    table: Mapping[str, Any]
    folder: Path
    held: frozenset[str] = frozenset()

    @cached_property
    def kinds(self) -> dict[str, type[Any] | None]:
        """The plain type of each option: bool, int, float, str, Path; None for what has no single one."""
        hints = get_type_hints(type(self.step.chosen.options))
        return {each.name: _plain(hints[each.name]) for each in fields(type(self.step.chosen.options))}

    def value(self, name: str) -> Any:
        """What the recipe says, or the option's default."""
        return getattr(self.step.chosen.options, name)

    def named(self, key: str, where: str) -> str:
        """The option that ``rank`` or ``finetune.lora.rank`` means. Raises ``RecipeError`` naming the nearest one."""
        prefix, _, name = key.rpartition(".")
        if prefix not in ("", self.path):
            raise unknown("option", key, [f"{self.path}.{each}" for each in self.kinds], where)
        if name not in self.kinds:
            raise unknown(f"option of {self.path}", name, self.kinds, where)
        return name

    def check(self, name: str, value: Value, where: str) -> None:
        """Raises ``RecipeError`` at ``where`` when the backend does not take ``value``."""
        kind = type(self.step.chosen.options)
        opt.build(kind, {**self.table, name: value}, folder=self.folder, path=self.path, where=lambda _: where)

    def measured(self, searched: frozenset[str]) -> dict[str, Value]:
        """The measurements a trial gets when the recipe asks for too few to tell a hopeless one early.

        Raises ``RecipeError`` when the user turned them off.
        """
        if "evaluations" not in self.kinds or "evaluations" in searched:
            return {}
        asked = self.value("evaluations")
        if "evaluations" in self.held:
            if asked == 0:
                key = f"{self.path}.evaluations"
                raise RecipeError(
                    "without measurements there is nothing to compare", where=f"--set {key}=0", hint=f"{key}=4"
                )
            return {}
        return {"evaluations": EVALUATIONS} if asked < 2 else {}

    @property
    def scale(self) -> float | None:
        """LoRA's alpha / rank, which a search over the rank keeps.

        None where there is no such pair, where alpha is held, and with ``rslora``, whose point is that alpha stays.
        """
        if not {"alpha", "rank"} <= self.kinds.keys() or "alpha" in self.held:
            return None
        if self.kinds.get("rslora") is bool and self.value("rslora"):
            return None
        return float(self.value("alpha")) / float(self.value("rank"))

    def with_scale(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """``params`` and the alpha that goes with their rank, where the rank is another than the recipe's."""
        made = dict(params)
        rank = params.get("rank")
        if self.scale is None or "alpha" in params or rank is None or rank == self.value("rank"):
            return made
        alpha = float(f"{self.scale * float(rank):.6g}")
        made["alpha"] = max(1, round(alpha)) if self.kinds["alpha"] is int else alpha
        return made

    def sets(self, values: Mapping[str, Value], given: Sequence[str] = ()) -> list[str]:
        """``key=value`` texts for ``--set``: those that were given, less those replaced, and ``values``."""
        laid = {f"{self.path}.{name}": value for name, value in values.items()}
        kept = [each for each in given if key_of_set(each) not in laid]
        return [*kept, *(f"{key}={text(value)}" for key, value in laid.items())]


def find_subject(plan: Plan, name: str | None, sets: Sequence[str]) -> Subject:
    """The step called ``name``, else the last trainer. Raises ``RecipeError`` when there is none."""
    trainers = [step for step in plan.steps if step.stage == "trainer"]
    if name is None and not trainers:
        raise RecipeError("has no trainer step to tune", where=str(plan.recipe.path), hint='[finetune] use = "lora"')
    wanted = name or trainers[-1].name
    step = next((each for each in plan.steps if each.name == wanted), None)
    if step is None:
        raise unknown("step", wanted, [each.name for each in trainers], "--step")
    if step.stage != "trainer":
        names = ", ".join(each.name for each in trainers) or "none"
        raise RecipeError(f"{wanted} is a {step.stage}; a held-out loss comes from a trainer: {names}", where="--step")
    section = next(each.section for each in plan.recipe.steps if each.name == wanted)
    backend = step.chosen.backend.spec.name
    path = f"{section.path}.{backend}"
    keys = [key_of_set(each) for each in sets]
    held = frozenset(key.removeprefix(f"{path}.") for key in keys if key.startswith(f"{path}."))
    return Subject(step, path, section.tables.get(backend, {}), plan.recipe.folder, held)


def key_of_set(text: str) -> str:
    """The key in ``key=value``."""
    return text.partition("=")[0].strip()


def text(value: Value) -> str:
    """The value as ``--set`` reads it: TOML, and plain words without quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    return value if parse_value(value) == value else json.dumps(value)


def _plain(hint: Any) -> type[Any] | None:
    """The one plain type behind ``int``, ``int | None`` or ``Literal["a", "b"]``."""
    found: set[type[Any] | None] = {hint}
    if get_origin(hint) is Literal:
        found = {type(each) for each in get_args(hint)}
    elif get_origin(hint) in (Union, types.UnionType):
        found = {_plain(each) for each in get_args(hint) if each is not type(None)}
    only = found.pop() if len(found) == 1 else None
    return only if only in (bool, int, float, str, Path) else None
