"""What is searched: ranges as the user types them, and those that are usual for a trainer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from inhouse.errors import RecipeError
from inhouse.recipe import parse_value

from .subject import Subject, Value

CHOICES: Mapping[str, tuple[int, ...]] = {"rank": (4, 8, 16, 32), "batch_size": (2, 4, 8, 16)}
"""Usual choices; the recipe's own value is added."""
RATE, AROUND = "learning_rate", 10.0
"""The learning rate is searched from a tenth to ten times the recipe's value."""
LOGARITHMIC = 10.0
"""Ranges of real numbers whose ends lie this far apart are searched by order of magnitude."""


@frozen
class Parameter:
    """One searched option: ``choices``, or a range with both ends in it; ``whole`` for integers, ``log`` for
    log-uniform."""

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False

    def has(self, value: object) -> bool:
        """Whether the search may come to ``value``."""
        if self.choices:
            return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.choices)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def values(self) -> Iterator[Value] | None:
        """All values one by one; None for real numbers."""
        if self.choices:
            return iter(self.choices)
        return iter(range(int(self.low), int(self.high) + 1)) if self.whole else None


def all_settings(space: Sequence[Parameter]) -> Iterator[tuple[Value, ...]] | None:
    """Every setting of a finite space; None for an infinite one."""
    values = [each.values() for each in space]
    return None if None in values else itertools.product(*(each for each in values if each is not None))


def search_space(subject: Subject, ranges: Sequence[str]) -> tuple[Parameter, ...]:
    """The user's ranges, or the usual ones where there are none. Raises ``RecipeError`` for what is no range."""
    if not ranges:
        return _usual(subject)
    found: dict[str, Parameter] = {}
    for each in ranges:
        parameter = parse_range(each, subject)
        if parameter.name in found:
            raise RecipeError(f"{parameter.name} has a range already", where=f"--range {each}")
        found[parameter.name] = parameter
    return tuple(found.values())


def parse_range(text: str, subject: Subject) -> Parameter:
    """``rank=4..64``, ``finetune.lora.learning_rate=1e-4..1e-2`` or ``decay=cosine,linear``."""
    where = f"--range {text}"
    key, equals, value = (each.strip() for each in text.partition("="))
    if not equals or not key or not value:
        raise RecipeError("needs KEY=LOW..HIGH or KEY=a,b,c", where=where, hint="--range rank=4..64")
    name = subject.named(key, where)
    kind = subject.kinds[name]
    if kind is None:
        raise RecipeError(f"{name} is neither a number nor a word and cannot be searched", where=where)
    if kind in (int, float) and ".." in value:
        return _between(name, value, subject, where)
    choices = tuple(dict.fromkeys(_typed(each.strip(), kind, where) for each in value.split(",")))
    if len(choices) < 2:
        hint = f"--range {key}=LOW..HIGH, or --set {subject.path}.{name}={value}"
        raise RecipeError("is one value, no range", where=where, hint=hint)
    for each in choices:
        subject.check(name, each, where)
    return Parameter(name, choices)


def _between(name: str, value: str, subject: Subject, where: str) -> Parameter:
    first, _, last = value.partition("..")
    kind = subject.kinds[name] or float
    low, high = (float(_typed(each.strip(), kind, where)) for each in (first, last))
    if low >= high:
        raise RecipeError(f"{first.strip()} is not below {last.strip()}", where=where, hint="LOW..HIGH")
    whole = kind is int
    for end in (low, high):
        subject.check(name, int(end) if whole else end, where)
    log = not whole and low > 0 and high / low >= LOGARITHMIC
    return Parameter(name, low=low, high=high, whole=whole, log=log)


def _typed(text: str, kind: type, where: str) -> Value:
    made: object = text
    try:
        made = kind(text) if kind in (int, float) else parse_value(text) if kind is bool else text
    except ValueError:
        made = None
    if (kind is bool and not isinstance(made, bool)) or made in (None, "") or not _finite(made):
        raise RecipeError(f"{text!r} is no {kind.__name__}", where=where, hint="KEY=LOW..HIGH or KEY=a,b,c")
    assert isinstance(made, (bool, int, float, str))
    return made


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _usual(subject: Subject) -> tuple[Parameter, ...]:
    found = []
    for name in ("rank", RATE, "batch_size"):
        kind, own = subject.kinds.get(name), None if name not in subject.kinds else subject.value(name)
        if name in subject.held:
            continue
        if name == RATE and kind is float and own:
            low, high = (float(f"{end:.6g}") for end in (own / AROUND, own * AROUND))
            for end in (low, high):
                subject.check(name, end, f"the usual range of {name}, {low:g}..{high:g}")
            found.append(Parameter(name, low=low, high=high, log=True))
        elif name != RATE and kind is int:
            found.append(Parameter(name, tuple(sorted({*CHOICES[name], own or CHOICES[name][0]}))))
    if not found:
        known = ", ".join(name for name, kind in subject.kinds.items() if kind in (bool, int, float, str))
        raise RecipeError(
            f"rank, learning_rate and batch_size of {subject.path} are not there or held by --set",
            where=subject.step.name,
            hint=f"--range KEY=LOW..HIGH; its options: {known}",
        )
    return tuple(found)
