"""A recipe: TOML to attrs, in layers (defaults < file < environment < ``--set``), with where each value came from."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, field, fields, frozen

from inhouse.errors import RecipeError
from inhouse.values import Target

STEPS: Mapping[str, str] = {
    "base": "source",
    "data": "source",
    "pretrain": "trainer",
    "finetune": "trainer",
    "quantize": "quantizer",
    "knowledge": "indexer",
    "evaluate": "evaluator",
    "gates": "evaluator",
    "bundle": "packager",
}
"""The usual steps in their order, and the stage of each."""

IMPLIED: Mapping[str, str] = {"gates": "quantize"}
"""Steps that a recipe has where it has another, without naming them; the backend has the step's name then."""

_STAGES = sorted(set(STEPS.values()))
_TOP = ("name", "seed", "target", "run", "runtime", "agent", "tools", "steps", *STEPS)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


@frozen
class Section:
    """One ``[table]`` that chooses a backend: ``use``, further words beside it, and the backends' tables."""

    path: str
    use: str
    words: Mapping[str, Any] = field(factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(factory=dict)


@frozen
class StepSection:
    """A step of the recipe; ``after``/``before`` place a step that has a name of its own. ``implied``: the recipe does
    not name it (see ``IMPLIED``)."""

    name: str
    stage: str
    section: Section
    after: str | None = None
    before: str | None = None
    implied: bool = False


@frozen
class RunTable:
    """``[run]``: the executor, and whether anything may go on the network."""

    executor: str = "local"
    network: bool = False


@frozen
class Recipe:
    """What the user asked for, checked for form; backends and their options are checked by the plan."""

    name: str
    seed: int
    target: Target
    run: RunTable
    steps: tuple[StepSection, ...]
    runtime: Section | None
    agent: Section | None
    tools: Mapping[str, Section]
    path: Path
    origins: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Paths in the recipe are relative to this."""
        return self.path.parent

    @classmethod
    def of(cls, data: dict[str, Any], *, path: Path, origins: Mapping[str, str] | None = None) -> "Recipe":
        """From tables as TOML gives them; ``path`` is where the recipe lies, ``origins`` where each key came from."""
        origins = origins or {}
        reader = _Reader(path, origins)
        reader.only(data, _TOP, "")
        run = reader.table(data.get("run", {}), "run")
        reader.only(run, [each.name for each in fields(RunTable)], "run.")
        tables = {each: {} for each, cause in IMPLIED.items() if data.get(cause)} | data
        usual = [
            StepSection(n, stage, reader.section(tables[n], n), implied=n not in data)
            for n, stage in STEPS.items()
            if tables.get(n, False) is not False
        ]
        extra = reader.table(data.get("steps", {}), "steps")
        if not usual and not extra:
            raise RecipeError("has no steps", where=str(path), hint="inhouse init")
        name = reader.scalar(data, "name", path.parent.name or "recipe")
        if name in ("", ".", "..") or "/" in name:
            raise RecipeError(f"{name!r} cannot name a folder", where=reader.where("name"))
        return cls(
            name=name,
            seed=reader.scalar(data, "seed", 0),
            target=_target(reader, reader.table(data.get("target", {}), "target")),
            run=RunTable(reader.scalar(run, "executor", "local", "run."), reader.scalar(run, "network", False, "run.")),
            steps=_ordered(reader, usual, [_extra_step(reader, name, each) for name, each in extra.items()]),
            runtime=reader.section(data["runtime"], "runtime") if "runtime" in data else None,
            agent=reader.section(data["agent"], "agent") if "agent" in data else None,
            tools={n: reader.tool(each, n) for n, each in reader.table(data.get("tools", {}), "tools").items()},
            path=path,
            origins=origins,
        )

    @classmethod
    def load(
        cls, path: str | Path, *, set: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> "Recipe":
        """Reads a TOML file and lays environment and ``set`` (``key.path=value``) over it.

        Raises ``RecipeError`` with file and line for anything that is not a recipe.
        """
        path = Path(path).absolute()
        if path.is_dir():
            path = path / "recipe.toml"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecipeError("no such recipe", where=str(path), hint="inhouse init") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot be read: {error}", where=str(path)) from error
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"line (\d+)", str(error))
            where = f"{path}:{line[1] if line else len(text.splitlines())}"
            raise RecipeError(f"is no TOML: {error}", where=where) from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 5,000 brackets
            raise RecipeError(f"is no recipe: {error}", where=str(path)) from error
        origins = {key: f"{path}:{find_line(text, key)}" for key in _leaves(data)}
        environ = os.environ if environment is None else environment
        for name in sorted(environ):
            if name.startswith("INHOUSE_") and "__" in name:
                key = name.removeprefix("INHOUSE_").lower().replace("__", ".")
                _lay(data, origins, key, environ[name], f"environment {name}")
        for each in set:
            key, equals, value = each.partition("=")
            if not equals or not key.strip():
                raise RecipeError("needs key=value", where=f"--set {each}", hint="--set finetune.lora.rank=8")
            _lay(data, origins, key.strip(), value, f"--set {each}")
        return cls.of(data, path=path, origins=origins)


def find_line(text: str, key: str) -> int:
    """The line (from 1) where ``key`` is set in TOML ``text``; of its nearest table when it is not; else 1."""
    parts = key.split(".")
    table: list[str] = []
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([\w.\"'-]+)\s*\]", line)
        assigned = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if header:
            table = re.sub(r"[\"']", "", header[1]).split(".")
            here = table
        elif assigned:
            here = table + re.sub(r"[\"']", "", assigned[1]).split(".")
        else:
            continue
        if here == parts[: len(here)] and len(here) > depth:
            best, depth = number, len(here)
    return best


def place(origins: Mapping[str, str], key: str) -> str | None:
    """``file:line: key`` of a recipe key, of its table when the key itself is not set; None when neither is."""
    at = key
    while at and at not in origins:
        at = at.rpartition(".")[0]
    return f"{origins[at]}: {key}" if at else None


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself when it is none (``q4_k_m`` needs no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def parse_size(value: int | str, where: str) -> int:
    """Bytes: an integer, or ``4GiB``, ``500 MB`` …"""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if not match or match[2].lower() not in _UNITS:
        raise RecipeError(f"{value!r} is no size", where=where, hint='memory = "4GiB"')
    return int(float(match[1]) * _UNITS[match[2].lower()])


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> RecipeError:
    """The error for a name that is not known, with the nearest one that is."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, 1, 0.5)
    also = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices) or 'none'}"
    return RecipeError(f"unknown {kind} {name!r}; {also}", where=where)


def _leaves(data: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in data.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
    return found


def _lay(data: dict[str, Any], origins: dict[str, str], key: str, value: str, origin: str) -> None:
    *tables, last = key.split(".")
    here = data
    for table in tables:
        here = here.setdefault(table, {})
        if not isinstance(here, dict):
            raise RecipeError(f"{table!r} is a value, not a table", where=origin)
    here[last] = parse_value(value)
    origins[key] = origin


class _Reader:
    """Takes tables apart, with the place of each key for errors."""

    def __init__(self, path: Path, origins: Mapping[str, str]) -> None:
        self.path = path
        self.origins = origins

    def where(self, key: str) -> str:
        return place(self.origins, key) or str(self.path)

    def table(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise RecipeError("should be a table", where=self.where(key), hint=f"[{key}]")
        return dict(value)

    def only(self, table: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
        known = list(known)
        for key in table:
            if key not in known:
                raise unknown("key", key, known, self.where(prefix + key))

    def scalar(self, table: dict[str, Any], key: str, default: Any, prefix: str = "") -> Any:
        value = table.pop(key, default)
        if default is not None and type(value) is not type(default):
            raise RecipeError(f"{value!r} is no {type(default).__name__}", where=self.where(prefix + key))
        return value

    def section(self, value: Any, path: str) -> Section:
        table = self.table(value, path)
        use = table.pop("use", path if path in IMPLIED else None)
        if not isinstance(use, str):
            raise RecipeError("names no backend", where=self.where(path), hint=f'[{path}] use = "…"')
        tables = {key: each for key, each in table.items() if isinstance(each, dict)}
        return Section(path, use, {key: each for key, each in table.items() if key not in tables}, tables)

    def tool(self, value: Any, name: str) -> Section:
        """A tool's options stand beside ``use``: the table is one instance of the backend."""
        table = self.table(value, f"tools.{name}")
        use = self.scalar(table, "use", name, f"tools.{name}.")
        return Section(f"tools.{name}", use, {}, {use.rpartition(":")[2]: table})


def _target(reader: _Reader, table: dict[str, Any]) -> Target:
    usual = asdict(Target())
    reader.only(table, usual, "target.")
    sizes = {k: parse_size(table.pop(k, usual.pop(k)), reader.where(f"target.{k}")) for k in ("memory", "disk")}
    found = {**sizes, **{key: reader.scalar(table, key, value, "target.") for key, value in usual.items()}}
    for key, value in found.items():
        if value < (least := int(key in ("memory", "context"))):
            raise RecipeError(f"{value} is below {least}", where=reader.where(f"target.{key}"))
    return Target(**found)


def _extra_step(reader: _Reader, name: str, value: Any) -> StepSection:
    path = f"steps.{name}"
    table = reader.table(value, path)
    if name in STEPS:
        raise RecipeError(f"is a usual step; write [{name}]", where=reader.where(path))
    if not re.fullmatch(r"[\w-]+", name):
        raise RecipeError(f"{name!r} is no name for a step (letters, digits, _ and -)", where=reader.where(path))
    stage = table.pop("stage", None)
    if stage not in _STAGES:
        raise unknown("stage", str(stage), _STAGES, reader.where(f"{path}.stage"))
    after, before = table.pop("after", None), table.pop("before", None)
    return StepSection(name, stage, reader.section(table, path), after, before)


def _ordered(reader: _Reader, usual: list[StepSection], extra: list[StepSection]) -> tuple[StepSection, ...]:
    order = list(usual)
    for step in extra:
        anchor = step.after or step.before
        names = [each.name for each in order]
        if anchor is None:
            same = [i for i, each in enumerate(order) if each.stage == step.stage]
            place = same[-1] + 1 if same else len(order)
        elif anchor in names:
            place = names.index(anchor) + (1 if step.after else 0)
        else:
            raise unknown("step", str(anchor), names, reader.where(f"steps.{step.name}"))
        order.insert(place, step)
    return tuple(order)
