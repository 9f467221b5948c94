"""The gate ``fit`` on models that bitsandbytes made, and that a process of its own really loads."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from inhouse import Kernel, Recipe
from inhouse.errors import EngineError, Interrupted, RecipeError
from inhouse.plugins import Registry
from inhouse.services import LiveServices
from inhouse.values import Artifact, Target
from inhouse_evaluate.apart import load_apart
from support.tiny_llama import make_model

PLUGINS = {"builtin", "smollm2", "transformers", "bitsandbytes", "gguf", "llamacpp", "gates"}
RECIPE = """
name = "fits"
[target]
context = 128
memory = "2GiB"
[base]
use = "local"
[base.local]
path = "base"
[quantize]
use = "bitsandbytes"
[gates]
use = "gates"
[runtime]
use = "transformers"
"""
BALLAST = 2200 << 20
"""More than a process with torch built for CUDA and a model of two thin layers takes: 1.1 GB."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    make_model(folder / "base")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def planned(project: Path, *sets: str) -> tuple[Kernel, Recipe]:
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
    return Kernel(project / "home", registry=registry), Recipe.load(project / "recipe.toml", set=sets, environment={})


def row(project: Path, *sets: str) -> dict[str, Any]:
    """Of the gate ``fit``."""
    kernel, recipe = planned(project, *sets)
    report = json.loads((kernel.run(recipe)["gates"].path / "gates.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(each for each in report["gates"] if each["gate"] == "fit")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_the_memory_is_that_of_a_process_with_the_model_alone(project: Path, kind: str) -> None:
    ballast = np.ones(BALLAST, np.uint8)  # of the run, not of the model
    found = row(project, f"quantize.bitsandbytes.type={kind}")
    assert psutil.Process().memory_info().rss > ballast.nbytes > 2 << 30
    assert found["state"] == "passed"
    assert found["figures"]["bytes"] < found["figures"]["memory"] < 2 << 30
    assert found["figures"]["tokens_per_second"] > 0
    assert found["figures"]["prefill_tokens_per_second"] > 0
    assert "tokens of context (target 2,147 MB)" in found["measured"]


@pytest.fixture
def apart(project: Path) -> Callable[..., Any]:
    """Loads the base in a process of its own; ``tick`` is called meanwhile."""
    kernel, recipe = planned(project)
    services = LiveServices(kernel.plan(recipe).answering)

    def loaded(tick: Callable[[], None] = lambda: None, *, context: int = 64) -> Any:
        model = Artifact("model/hf", project / "base", "")
        return load_apart(services, model, Target(context=context, threads=1), text="hello", tick=tick)

    return loaded


def loaders() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "inhouse_evaluate.loader" in each.cmdline()]


def test_what_the_runtime_refuses_there_is_its_error_here(apart: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="a context of 4096 tokens, but the model was made for 512") as told:
        apart(context=4096)
    assert told.value.hint == "--set target.context=512"
    assert loaders() == []


def test_a_process_that_is_killed_is_told_with_how(apart: Callable[..., Any]) -> None:
    def kill() -> None:
        for each in loaders():
            os.kill(each.pid, signal.SIGKILL)

    with pytest.raises(EngineError, match=r"the process that held the model died \(killed by SIGKILL\)"):
        apart(kill)
    assert loaders() == []


def test_a_user_who_stops_it_leaves_no_process(apart: Callable[..., Any]) -> None:
    def stop() -> None:
        assert len(loaders()) == 1
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        apart(stop)
    assert loaders() == []
