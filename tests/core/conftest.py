"""A registry of fakes, a recipe of fakes, and plugin modules made on the spot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inhouse.kernel import Kernel
from inhouse.plugins import Registry
from support import distributions, fakes


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The path of the fakes' recipe, its data beside it."""
    return fakes.write_recipe(tmp_path / "desk")


@pytest.fixture
def registry() -> Registry:
    return distributions.registry()


@pytest.fixture
def kernel(tmp_path: Path, registry: Registry) -> Kernel:
    return Kernel(tmp_path / "home", registry=registry)


@pytest.fixture
def module() -> Iterator[Callable[..., str]]:
    """Makes an importable module of functions and returns its name."""
    made: list[str] = []

    def make(name: str, **members: Any) -> str:
        built = ModuleType(name)
        vars(built).update(members)
        sys.modules[name] = built
        made.append(name)
        return name

    yield make
    for name in made:
        del sys.modules[name]
