"""A bundle answers from its own folder and reads nothing outside of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inhouse import InhouseError, Kernel, Recipe
from inhouse.errors import ArtifactError, DataError, PluginError, RecipeError
from inhouse.plugins import Registry
from inhouse.values import Message
from inhouse_answer.bundle import Bundle
from inhouse_answer.dialogues import answer, answer_all
from support.fakes import EchoEngine as Engine
from support.fakes import Parrot, write_recipe


@pytest.fixture
def bundle(kernel: Kernel, recipe: Path) -> Path:
    """The folder of a bundle of fakes, without the home that made it."""
    made = Path(str(kernel.run(Recipe.load(recipe, environment={})).record.bundle))
    moved = kernel.home.parent / "elsewhere"
    made.rename(moved)
    return moved


def change(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "bundle.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_a_bundle_answers(bundle: Path, registry: Registry) -> None:
    with Bundle(bundle, registry) as opened:
        result = opened.ask("where is it?", history=[Message("user", "hello")])
    assert result.text == "q4(model+[0, 1, 2]@0.5): where is it?"
    assert result.calls[0].tool == "upper"
    assert result.seconds > 0


@pytest.mark.parametrize("batch", [None, 0])
def test_an_engine_that_breaks_its_protocol_is_named(
    bundle: Path, registry: Registry, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Engine, "batch")
    if batch is not None:
        monkeypatch.setattr(Engine, "batch", batch, raising=False)
    with Bundle(bundle, registry) as opened, pytest.raises(PluginError, match="decodes together") as raised:
        opened.ask("where is it?")
    assert "(echo)" in str(raised.value.where)
    assert "batch" in str(raised.value.hint)


def test_a_bundle_brings_its_files(kernel: Kernel, recipe: Path, registry: Registry) -> None:
    sets = ["tools.upper.file=chat.jsonl"]
    made = Path(str(kernel.run(Recipe.load(recipe, set=sets, environment={})).record.bundle))
    files = json.loads((made / "bundle.json").read_text())["tools"]["upper"]["files"]
    assert files == {"file": str(recipe.parent / "chat.jsonl")}  # a real packager copies it and writes a relative path
    with pytest.raises(ArtifactError, match="lies outside the bundle"):
        Bundle(made, registry)


def outside_model(data: dict[str, Any]) -> None:
    data["model"]["folder"] = "../desk"


def outside_knowledge(data: dict[str, Any]) -> None:
    data["knowledge_folder"] = "/etc"


def outside_file(data: dict[str, Any]) -> None:
    data["tools"]["upper"]["files"] = {"file": "../desk/chat.jsonl"}


def outside_absolute(data: dict[str, Any]) -> None:
    data["tools"]["upper"]["files"] = {"file": "/etc/passwd"}


def outside_option(data: dict[str, Any]) -> None:
    data["tools"]["upper"]["options"] = {"file": "/etc/passwd"}


def outside_relative_option(data: dict[str, Any]) -> None:
    data["tools"]["upper"]["options"] = {"file": "../desk/chat.jsonl"}


@pytest.mark.parametrize(
    "edit",
    [outside_model, outside_knowledge, outside_file, outside_absolute, outside_option, outside_relative_option],
)
def test_what_lies_outside_is_refused(bundle: Path, registry: Registry, edit: Any) -> None:
    change(bundle, edit)
    with pytest.raises(ArtifactError, match="lies outside the bundle"), Bundle(bundle, registry) as opened:
        opened.ask("hello")


def test_a_link_out_of_the_bundle_is_refused(bundle: Path, registry: Registry) -> None:
    (bundle / "knowledge" / "shelf.json").unlink()
    (bundle / "knowledge").rmdir()
    (bundle / "knowledge").symlink_to("/etc")
    with pytest.raises(ArtifactError, match="lies outside the bundle"), Bundle(bundle, registry) as opened:
        opened.ask("hello")


def no_runtime(data: dict[str, Any]) -> None:
    data["runtimes"] = {}


def unknown_tool(data: dict[str, Any]) -> None:
    data["tools"]["upper"]["use"] = "acme-tools:teleport"


def later_format(data: dict[str, Any]) -> None:
    data["format"] = 99


def no_kind(data: dict[str, Any]) -> None:
    data["model"] = {}


def no_use(data: dict[str, Any]) -> None:
    data["agent"] = {"options": {}}


def wrong_shape(data: dict[str, Any]) -> None:
    data["agent"] = ["parrot"]


def missing_key(data: dict[str, Any]) -> None:
    del data["target"]


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (no_runtime, InhouseError, "runtime"),
        (unknown_tool, RecipeError, "no tool named 'acme-tools:teleport' is installed"),
        (later_format, ArtifactError, "has format 99"),
        (no_kind, ArtifactError, "bundle.json"),
        (no_use, ArtifactError, "bundle.json"),
        (wrong_shape, ArtifactError, "bundle.json"),
        (missing_key, ArtifactError, "bundle.json"),
    ],
)
def test_a_damaged_bundle_is_told(bundle: Path, registry: Registry, edit: Any, error: Any, said: str) -> None:
    change(bundle, edit)
    with pytest.raises(error) as caught:
        Bundle(bundle, registry)
    assert said in str(caught.value)


def test_a_folder_that_is_no_bundle(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(DataError, match=r"is no bundle \(it has no bundle\.json\)"):
        Bundle(tmp_path, registry)


def test_a_recipe_without_an_agent_makes_a_bundle_without_one(
    kernel: Kernel, tmp_path: Path, registry: Registry
) -> None:
    text = (
        'name = "bare"\n[target]\ncontext = 64\n[base]\nuse = "blank"\n[runtime]\nuse = "echo"\n[bundle]\nuse = "box"\n'
    )
    run = kernel.run(Recipe.load(write_recipe(tmp_path / "bare", text), environment={}))
    with Bundle(str(run.record.bundle), registry) as opened, pytest.raises(RecipeError, match="has no agent"):
        opened.ask("hello")


def test_answers_come_in_batches_that_stay_full() -> None:
    engine, agent = Engine("m", 64), Parrot(None, {})  # type: ignore[arg-type]
    questions = ["a", "", "b", "c", "", "d", "e"]
    answers = dict(answer_all(agent, engine, questions, batch=2))
    assert [answers[index].text for index in range(7)] == [
        "m: a", "nothing asked", "m: b", "m: c", "nothing asked", "m: d", "m: e",
    ]  # fmt: skip
    assert engine.batches == [2, 2, 1]
    assert answer(agent, engine, "x").text == "m: x"
    assert list(answer_all(agent, engine, [])) == []
