"""A backend's options: from a recipe table to an instance of its attrs class, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import cattrs
from attrs import NOTHING, fields

from inhouse import artifacts, codec
from inhouse.errors import RecipeError
from inhouse.recipe import unknown

Where = Callable[[str], str]
"""From a dotted recipe key to ``file:line: key`` for errors."""


def _strict(*accepted: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, wanted: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"{value!r} is no {wanted.__name__}")
        return wanted(value)

    return structure


def _converter(folder: Path) -> cattrs.Converter:
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    made.register_structure_hook(str, _strict(str))
    made.register_structure_hook(bool, _strict(bool))
    made.register_structure_hook(int, _strict(int))
    made.register_structure_hook(float, _strict(int, float))
    made.register_structure_hook(Path, lambda value, _: folder / _strict(str)(value, str))
    return made


def build(kind: type[Any], table: Mapping[str, Any], *, folder: Path, path: str, where: Where) -> Any:
    """An instance of ``kind`` from a recipe table at the dotted ``path``.

    Paths are taken relative to ``folder`` and have to exist. Raises ``RecipeError`` with the place of an
    unknown key (and the nearest known one) or of a value of the wrong type or range.
    """
    known = {each.name: each for each in fields(kind)}
    hints = get_type_hints(kind)
    converter = _converter(folder)
    values: dict[str, Any] = {}
    for key, value in table.items():
        place = where(f"{path}.{key}")
        if key not in known:
            raise unknown("key", key, known, place)
        try:
            if isinstance(value, str) and get_origin(hints[key]) in (tuple, list, frozenset):
                raise TypeError(f"{value!r} is no list")  # not a list of its letters
            if get_origin(hints[key]) is dict and not isinstance(value, dict):
                raise TypeError(f"{value!r} is no table")
            values[key] = converter.structure(value, hints[key])
        except Exception as error:
            raise RecipeError(_say(error), where=place) from error
        if isinstance(values[key], Path) and not values[key].exists():
            raise RecipeError(f"no such file: {values[key]}", where=place)
    for key, each in known.items():
        if each.default is NOTHING and key not in values:
            raise RecipeError(f"needs {key!r}: {each.metadata.get('help', '')}", where=where(path))
    try:
        return kind(**values)
    except RecipeError:
        raise
    except Exception as error:
        named = next((key for key in values if f"'{key}'" in str(error)), None)
        raise RecipeError(_say(error), where=where(f"{path}.{named}" if named else path)) from error


def _say(error: Exception) -> str:
    return str(error.args[0] if error.args else error)


def plain(options: Any) -> dict[str, Any]:
    """Options as plain data; paths as absolute strings."""
    data: dict[str, Any] = codec.converter.unstructure(options)
    return data


def marked(options: Any, mark: str) -> list[tuple[str, Any]]:
    """(name, value of the mark) of each option whose metadata has ``mark``."""
    return [(each.name, each.metadata[mark]) for each in fields(type(options)) if mark in each.metadata]


def paths(options: Any) -> list[str]:
    """Names of the options that hold a path."""
    return [each.name for each in fields(type(options)) if isinstance(getattr(options, each.name), Path)]


def counting(options: Any) -> dict[str, Any]:
    """The part that decides a step's output: without fields marked ``counts = False``, files by content."""
    data = plain(options)
    for each in fields(type(options)):
        value = getattr(options, each.name)
        if each.metadata.get("counts") is False:
            del data[each.name]
        elif isinstance(value, Path):
            data[each.name] = f"sha256:{artifacts.tree_digest(value)}"
    return data
