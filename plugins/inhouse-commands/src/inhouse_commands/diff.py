"""``inhouse diff``"""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from inhouse.cli.common import emit, json_option
from inhouse.errors import DataError
from inhouse.values import Json
from inhouse_commands.lineage import LINEAGE, Lineage, read_file, read_lineage, shown, walk
from inhouse_commands.verify import read_digest

Facts = Mapping[str, Mapping[str, Json]]
"""What a bundle says of itself, by group and key; values are plain."""

FIGURES = ("solved", "total", "loss", "bytes", "memory", "tokens_per_second", "type", "bits_per_weight", "runtime")
"""What of each evaluated model is compared."""

_LARGEST = 64 << 20  # bytes of a report.json that is read
_DEEPEST = 16  # tables in tables; no recipe has more than six
_NOWHERE = "-"


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@json_option
def command(a: str, b: str, as_json: bool) -> None:
    """Say what differs between the bundles A and B: how they were made, what was measured, and their files.

    Exit 0: nothing. 1: something. 2: one is no bundle.
    """
    found = compare(facts(read_lineage(a)), facts(read_lineage(b)))
    if as_json:
        emit({"a": shown(a), "b": shown(b), "same": not found, "differences": found})
    else:
        _show(found)
    if found:
        sys.exit(1)


def compare(a: Facts, b: Facts) -> dict[str, dict[str, dict[str, Json]]]:
    """``{group: {key: {"a": …, "b": …}}}`` of what differs, null where one has nothing."""
    found: dict[str, dict[str, dict[str, Json]]] = {}
    for group in a:
        keys = dict.fromkeys([*a[group], *b[group]])
        rows = {
            shown(key): {"a": a[group].get(key), "b": b[group].get(key)}
            for key in keys
            if (key in a[group], a[group].get(key)) != (key in b[group], b[group].get(key))
        }
        if rows:
            found[group] = rows
    return found


def facts(lineage: Lineage) -> Facts:
    """What is compared. The files are those that are there now, not those that were made."""
    data = lineage.data
    made = {
        each["kind"].partition("/")[0]: each["digest"]
        for each in data["inputs"]
        if not each["kind"].startswith("report")
    }
    kept = {name: (data[name] or {}).get("sha256") for name in ("tokenizer", "template")}
    return {
        "name": {"name": data["name"]},
        "seed": {"seed": data["seed"]},
        "options": _options(lineage),
        "data": {each["key"]: each["sha256"] for each in data["data"]},
        "artifacts": {
            **{name: (data[name] or {}).get("digest") for name in ("base", "adapter")},
            "model": made.get("model"),
            "knowledge": made.get("knowledge"),
            **kept,
        },
        "products": {
            f"{step['name']} {kind}": digest for step in data["steps"] for kind, digest in step["products"].items()
        },
        "plugins": {step["name"]: step["plugin"] for step in data["steps"]},
        "versions": {**data["installed"], **data["answering"], "python": data["python"]},
        "machine": {name: data[name] for name in ("platform", "processor", "cores")},
        "gates": {
            f"{step}.{name}": _gate(each) for step, found in data["gates"].items() for name, each in found.items()
        },
        "figures": _figures(lineage.folder),
        "files": {
            path: read_digest(lineage.folder / path) if each.plain else "a link or device"
            for path, each in walk(lineage.folder).items()
            if path != LINEAGE
        },
    }


def recipe_of(lineage: Lineage) -> dict[str, Any]:
    """The recipe's tables; ``{}`` where the bundle has none. Raises ``DataError`` for what is no TOML."""
    try:
        return tomllib.loads(lineage.data["recipe"] or "")
    except (ValueError, RecursionError) as error:
        said = shown(str(error)[:120])
        raise DataError(f"its recipe is no TOML: {said}", where=shown(lineage.folder / LINEAGE)) from error


def _options(lineage: Lineage) -> dict[str, Json]:
    """Every value of the recipe by its key, but for those that are told elsewhere; of a bundle without one the
    target."""
    recipe = recipe_of(lineage) or {"target": lineage.data["target"]}
    return _leaves({key: each for key, each in recipe.items() if key not in ("name", "seed")})


def _leaves(table: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in table.items():
        if isinstance(value, dict) and depth < _DEEPEST:
            found |= _leaves(value, f"{prefix}{key}.", depth + 1)
        elif isinstance(value, dict):
            found[prefix + key] = "…"
        else:
            plain = isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
            found[prefix + key] = value if plain else str(value)
    return found


def _gate(gate: Mapping[str, Json]) -> str:
    usual = "passed" if gate["passed"] else "failed"
    accepted = ", accepted" if gate["accepted"] else ""
    return f"{gate.get('state', usual)}{accepted}: {gate['measured']}"


def _figures(folder: Path) -> dict[str, Json]:
    """What ``report.json`` has of the figures; evaluators differ, so nothing has to be there."""
    try:
        content = read_file(folder / "report.json", _LARGEST)
        report: Json = json.loads(content, parse_constant=lambda _: None) if content else {}
        json.dumps(report, ensure_ascii=False).encode()
    except (DataError, ValueError, RecursionError):
        return {}
    tasks = report.get("tasks") if isinstance(report, dict) else None
    if not isinstance(tasks, dict):
        return {}
    others = tasks.get("others")
    models = {name: each for name, each in tasks.items() if name != "others"}
    models |= others if isinstance(others, dict) else {}
    return {
        f"{model}.{name}": each[name]
        for model, each in models.items()
        if isinstance(each, dict)
        for name in FIGURES
        if isinstance(each.get(name), (str, int, float))
    }


def _show(found: Mapping[str, Mapping[str, Mapping[str, Json]]]) -> None:
    if not found:
        click.echo("nothing differs")
    for number, (group, rows) in enumerate(found.items()):
        click.echo(f"{chr(10) if number else ''}{group}")
        width = max(map(len, rows))
        for key, each in rows.items():
            click.echo(f"  {key.ljust(width)}  {_short(each['a'])} -> {_short(each['b'])}")


def _short(value: Json) -> str:
    """A value for one line; of a digest the first twelve digits, as in ``inhouse artifacts``."""
    if value is None:
        return _NOWHERE
    text = shown(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:59]}…"
