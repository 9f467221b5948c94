"""``type = "auto"``: the ladder is measured on a model that was really tuned, and the best type that holds is taken."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from inhouse import Kernel, Recipe, Run
from inhouse.errors import RecipeError, StepError
from inhouse.plugins import Registry
from inhouse_gguf.ladder import LADDER, Rung, choose
from support.tiny_llama import make_model

from .test_gates import RECIPE
from .test_quantization_aware import write_chats

PLUGINS = {"builtin", "data", "smollm2", "torch", "peft", "gguf", "llamacpp", "transformers", "gates"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    make_model(folder / "base", initializer_range=0.05)
    write_chats(folder / "train.jsonl", 24, 100)
    write_chats(folder / "heldout.jsonl", 8, 500)
    (folder / "recipe.toml").write_text(RECIPE.replace('"q8_0"', '"auto"'), encoding="utf-8")
    return folder


def run(project: Path, *sets: str) -> Run:
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
    recipe = Recipe.load(project / "recipe.toml", set=sets, environment={})
    return Kernel(project / "home", registry=registry).run(recipe)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it
def test_the_best_type_that_holds_is_taken(project: Path) -> None:
    made = run(project)
    told = made["quantize"].meta
    ladder = told["ladder"]
    assert [each["type"] for each in ladder] == list(LADDER)
    assert all(each["memory"] > each["bytes"] and each["nats"] >= 0 for each in ladder)
    assert told["type"] == "q8_0"  # the one that diverges least, where all have room
    assert min(ladder, key=lambda each: each["nats"])["type"] == "q8_0"
    assert made["gates"].meta["gates"]["survival"]["passed"]
    with pytest.raises(StepError, match="no type holds to the target: q8_0: slower than 100000000 tokens/s"):
        run(project, "target.speed=100000000")


@pytest.mark.parametrize("kind", ["auto", "f16", "iq2_xs"])
def test_a_training_for_a_type_that_is_no_rounding_is_refused_by_the_plan(project: Path, kind: str) -> None:
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
    sets = ("finetune.lora.quantization_aware=auto", f"quantize.gguf.type={kind}")
    recipe = Recipe.load(project / "recipe.toml", set=sets, environment={})
    with pytest.raises(
        RecipeError, match=f"\"auto\" is what quantize.gguf.type says, and '{kind}' is no rounding"
    ) as said:
        Kernel(project / "home", registry=registry).plan(recipe)
    assert "finetune.lora.quantization_aware" in str(said.value.where)
    assert "quantize.gguf.type = one of " in str(said.value.hint)
    assert "q4_0" in str(said.value.hint)
    assert said.value.exit_code == 2


def rung(kind: str, size: int, nats: float | None, why: str = "") -> Rung:
    return Rung(kind, 8.0, size, 10, 10.0, nats, 0.9, why)


def test_choice() -> None:
    rungs = [rung("q8_0", 80, 0.1, "too large"), rung("q6_k", 60, 0.2), rung("q4_0", 40, 0.15), rung("q2_k", 20, 0.9)]
    assert choose(rungs).type == "q4_0"
    assert choose([rung("q6_k", 60, None), rung("q4_0", 40, None)]).type == "q6_k"
    with pytest.raises(StepError, match="q8_0: too large"):
        choose(rungs[:1])
