"""A server that speaks Ollama's API, and a small run that ends in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import ollama
import pytest

from inhouse import Bus, Kernel, Recipe
from inhouse.events import Noticed
from inhouse.plugins import Registry

SYSTEM = 'You are "the desk".\nUse few words.'
RECIPE = """
name = "desk"
[target]
context = 512
[base]
use = "tiny"
[agent]
use = "says"
[agent.says]
system = "system.txt"
[bundle]
use = "ollama"
[bundle.ollama]
host = "{host}"
"""


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "parts"))
    for name in ("OLLAMA_HOST", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(_parts: None, tmp_path: Path) -> Iterator[Any]:
    """A server with nothing in it."""
    from ollama_server import serving  # type: ignore[import-not-found]

    with serving(tmp_path / "server") as found:
        yield found


@pytest.fixture
def kernel(_parts: None, tmp_path: Path) -> Kernel:
    """A kernel with a home of its own, the core's plugin, this one, and the parts for tests."""
    modules = {"core": "inhouse.builtin", "ollama": "inhouse_ollama", "parts": "ollama_parts"}
    registry = Registry([EntryPoint(name, module, "inhouse") for name, module in modules.items()])
    assert registry.failures == []
    return Kernel(tmp_path / "home", registry=registry)


@pytest.fixture
def recipe_file(tmp_path: Path, server: Any) -> Path:
    """A recipe that names the server."""
    (tmp_path / "system.txt").write_text(SYSTEM + "\n")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(host=server.url))
    return path


@pytest.fixture
def run(kernel: Kernel, recipe_file: Path) -> Callable[..., list[str]]:
    """Runs the recipe with values laid over it; returns what the user was told."""

    def made(*sets: str, **more: Any) -> list[str]:
        bus, told = Bus(), list[Noticed]()
        bus.subscribe(Noticed, told.append)
        kernel.run(Recipe.load(recipe_file, set=list(sets), environment={}), bus=bus, **more)
        return [each.message for each in told]

    return made


@pytest.fixture
def client(server: Any) -> Iterator[ollama.Client]:
    """The official client, as a user has it."""
    made = ollama.Client(server.url)
    yield made
    made._client.close()
