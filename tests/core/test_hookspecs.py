"""Every hook is documented by an example that runs, and used by a plugin of this project."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

from inhouse import hookspecs, specs
from inhouse.specs import SPEC_TYPES

ROOT = Path(__file__).resolve().parents[2]
HOOKS = {name: each for name, each in vars(hookspecs).items() if name.startswith("inhouse_")}


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_in_the_docstring_runs(name: str) -> None:
    examples = doctest.DocTestFinder(recurse=False).find(HOOKS[name], name, globs={**vars(specs), **vars(hookspecs)})
    (example,) = examples
    assert example.examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_says_when_it_is_called_or_what_to_yield(name: str) -> None:
    first = inspect.getdoc(HOOKS[name]) or ""
    assert re.match(r"(Yield|Subscribe|Wrap)\b.*", first), first


def test_every_kind_of_backend_has_its_hook() -> None:
    assert {f"inhouse_{each.kind}s" for each in SPEC_TYPES} <= HOOKS.keys()


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_ships_with_a_plugin_that_uses_it(name: str) -> None:
    """Reads the sources of plugins/*/src and the core's own plugin, so it holds for what this repository ships."""
    sources = [ROOT / "core/inhouse/builtin.py", *ROOT.glob("plugins/*/src/**/*.py")]
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in sources)
