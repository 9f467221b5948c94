"""The fixtures of fakes, and plugin modules made on the spot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from support.fixtures import done, kernel, recipe, registry, target  # noqa: F401


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
