"""``lineage.json``: every digest and fact of how a bundle was made, and a recipe that makes it again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from inhouse import InhouseError, Kernel, Recipe
from inhouse.artifacts import file_digest, tree_digest
from inhouse.values import Artifact, StepRecord
from inhouse_bundle import toml
from inhouse_bundle.gguf_file import lineage_of, read_gguf
from inhouse_bundle.lineage import gates
from inhouse_bundle.places import is_place, without_paths
from inhouse_bundle.tokens import tokens


@pytest.fixture
def bundle(kernel: Kernel, recipe: Recipe) -> Path:
    found = kernel.run(recipe).record.bundle
    assert found
    return Path(found)


@pytest.fixture
def lineage(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "lineage.json").read_text())
    return found


def test_inputs_and_steps(kernel: Kernel, bundle: Path, lineage: dict[str, Any]) -> None:
    assert [each["kind"] for each in lineage["inputs"]] == ["model/gguf", "knowledge", "report"]
    assert [each["copied_to"] for each in lineage["inputs"]] == [None, "knowledge", None]
    assert lineage["inputs"][1]["digest"] == tree_digest(bundle / "knowledge")
    assert lineage["inputs"][0]["meta"]["source"] == "model.gguf"
    assert [each["name"] for each in lineage["steps"]] == ["base", "docs", "knowledge", "evaluate"]
    made = {each.step: each for each in kernel.store.all()}
    for step in lineage["steps"]:
        manifest = made[step["name"]]
        assert (step["fingerprint"], step["plugin"]) == (manifest.fingerprint, manifest.plugin)
        assert step["products"] == {each.kind: each.digest for each in manifest.products}
        assert step["seed"] == 3
    assert lineage["base"] == {
        "step": "base", "kind": "model/gguf", "digest": lineage["inputs"][0]["digest"],
    }  # fmt: skip
    assert lineage["adapter"] is None
    assert lineage["target"] == {"memory": 4 << 30, "context": 512, "threads": 0, "speed": 0, "disk": 0}
    assert lineage["installed"]["inhouse-bundle"]
    assert made["bundle"].meta["lineage"] == file_digest(bundle / "lineage.json")


def test_every_other_file_is_listed(bundle: Path, lineage: dict[str, Any]) -> None:
    there = {each.relative_to(bundle).as_posix(): each for each in bundle.rglob("*") if each.is_file()}
    listed = {each["path"]: each for each in lineage["files"]}
    assert listed.keys() == there.keys() - {"lineage.json"}
    for path, each in listed.items():
        assert (each["size"], each["sha256"]) == (there[path].stat().st_size, file_digest(there[path]))
    assert {path for path, each in listed.items() if each["editable"]} == {
        "Modelfile",
        "README.md",
        "bundle.json",
        "files/agent/system.txt",
        "files/knowledge/embedder/table.bin",
        "files/tools/second/book.txt",
        "files/tools/shelf/book.txt",
    }


def test_its_own_digest(bundle: Path, lineage: dict[str, Any]) -> None:
    text = (bundle / "lineage.json").read_text()
    assert text.count(lineage["own_digest"]) == 1
    assert hashlib.sha256(text.replace(lineage["own_digest"], "0" * 64).encode()).hexdigest() == lineage["own_digest"]


def test_data_by_name_and_digest(recipe: Recipe, lineage: dict[str, Any]) -> None:
    assert {each["key"]: (each["name"], each["sha256"]) for each in lineage["data"]} == {
        key: (name, file_digest(recipe.folder / name))
        for key, name in {
            "knowledge.letters.table": "table.bin",
            "evaluate.canned.report": "report.json",
            "agent.echo.system": "system.txt",
            "tools.shelf.book": "book.txt",
            "tools.second.book": "book.txt",
        }.items()
    }


def test_its_recipe_makes_the_same_steps(kernel: Kernel, recipe: Recipe, lineage: dict[str, Any]) -> None:
    """The same fingerprints, the bundle's too: all of it is found in the store."""
    tables = tomllib.loads(lineage["recipe"])
    for each in lineage["data"]:
        *parts, last = each["key"].split(".")
        here = tables
        for part in parts:
            here = here[part]
        assert here[last] == each["name"]
    (recipe.folder / "resolved.toml").write_text(lineage["recipe"])
    again = Recipe.load(recipe.folder / "resolved.toml", environment={})
    plan = kernel.plan(again)
    assert [each.name for each in plan.steps] == ["base", "docs", "knowledge", "evaluate", "bundle"]
    assert kernel.cached(plan).keys() == {each.name for each in plan.steps}


def test_layers_are_in_the_recipe(kernel: Kernel, recipe: Recipe) -> None:
    layered = Recipe.load(recipe.path, set=["tools.second.limit=7", "base.tiny.template={{ 1 }}"])
    found = kernel.run(layered).record.bundle
    assert found
    tables = tomllib.loads(json.loads((Path(found) / "lineage.json").read_text())["recipe"])
    assert (tables["tools"]["second"]["limit"], tables["tools"]["shelf"]["limit"]) == (7, 100)
    assert tables["base"]["tiny"]["template"] == "{{ 1 }}"


def test_gates(lineage: dict[str, Any]) -> None:
    assert lineage["gates"] == {
        "evaluate": {
            "tasks": {"passed": False, "measured": "61 of 80 solved", "accepted": True, "state": "failed"},
            "memory": {"passed": True, "measured": "230 MB", "accepted": False},
        }
    }


def test_gates_that_come_out_otherwise_make_another_bundle(kernel: Kernel, recipe: Recipe) -> None:
    text = recipe.path.read_text() + '\n[steps.check]\nstage = "evaluator"\nuse = "gate"\n'
    recipe.path.write_text(text)
    for accept in (False, True):
        found = kernel.run(
            Recipe.load(recipe.path, set=[f"steps.check.gate.accept={str(accept).lower()}"])
        ).record.bundle
        assert found
        lineage = json.loads((Path(found) / "lineage.json").read_text())
        assert lineage["gates"]["check"]["fit"]["accepted"] is accept
        assert [each["kind"] for each in lineage["inputs"]] == ["model/gguf", "knowledge", "report", "report/gates"]


def test_a_run_without_the_gates_is_told_as_one(
    kernel: Kernel, recipe: Recipe, lineage: dict[str, Any], tmp_path: Path
) -> None:
    """Made again it would else be judged, which it was not."""
    quantizing = Recipe.load(recipe.path, set=["quantize.use=copy"])
    found = Kernel(tmp_path / "another", registry=kernel.registry).run(quantizing).record.bundle
    assert found
    tables = tomllib.loads(json.loads((Path(found) / "lineage.json").read_text())["recipe"])
    assert tables["gates"] is False
    assert tables["quantize"]["use"].endswith(":copy")
    assert "gates" not in tomllib.loads(lineage["recipe"])


@pytest.mark.parametrize("noted", [None, [], "x", {"a": 1}, {"a": {}}, {"a": {"passed": None}}])
def test_what_is_no_gate_is_left_out(noted: Any) -> None:
    assert gates([StepRecord("e", "evaluator", "b", 0.0, False, 0.0, 0, meta={"gates": noted})]) == {}


def test_the_gguf_says_it_too_and_the_same_each_time(
    kernel: Kernel, recipe: Recipe, bundle: Path, lineage: dict[str, Any], tmp_path: Path
) -> None:
    said = json.loads(lineage_of(bundle / "model" / "model.gguf") or "")
    assert said["steps"][0] == {
        "name": "base",
        "stage": "source",
        "backend": "tiny",
        "plugin": lineage["steps"][0]["plugin"],
        "fingerprint": lineage["steps"][0]["fingerprint"],
        "products": {"model/gguf": lineage["inputs"][0]["digest"]},
    }
    assert said["gates"] == {"evaluate": {"tasks": False, "memory": True}}
    assert said["recipe"] == hashlib.sha256(lineage["recipe"].encode()).hexdigest()
    another = Kernel(tmp_path / "another", registry=kernel.registry)
    another.run(recipe, until="evaluate")
    again = another.run(recipe).record.bundle  # of steps from the store
    assert again
    assert json.loads((Path(again) / "lineage.json").read_text())["recipe"] == lineage["recipe"]
    assert file_digest(Path(again) / "model" / "model.gguf") == file_digest(bundle / "model" / "model.gguf")


def test_tokenizer_and_template_of_a_gguf(kernel: Kernel, bundle: Path, lineage: dict[str, Any]) -> None:
    found = read_gguf(bundle / "model" / "model.gguf")
    assert lineage["tokenizer"] == {"file": "model/model.gguf", "keys": "tokenizer.*", "sha256": found.tokenizer}
    assert lineage["template"]["sha256"] == hashlib.sha256(found.chat.template.encode()).hexdigest()


def test_tokenizer_and_template_beside_safetensors(tmp_path: Path) -> None:
    assert tokens(tmp_path, None) == {"tokenizer": None, "template": None}
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ 1 }}"}')
    found = tokens(tmp_path, None)
    assert found["tokenizer"] == {"file": "model/tokenizer.json", "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert found["template"]["file"] == "model/tokenizer_config.json"
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}")
    assert tokens(tmp_path, None)["template"] == {**found["template"], "file": "model/chat_template.jinja"}
    (tmp_path / "chat_template.jinja").unlink()
    for odd in ("[]", "{", "[" * 100_000, '{"chat_template": [1]}'):
        (tmp_path / "tokenizer_config.json").write_text(odd)
        assert tokens(tmp_path, None)["template"] is None


def test_an_input_that_changed_in_the_store_is_not_packed(kernel: Kernel, recipe: Recipe) -> None:
    kernel.run(recipe, until="evaluate")
    (path,) = (kernel.home / "artifacts").glob("*/knowledge/lines.jsonl")
    path.write_text(path.read_text().replace("30", "31"))
    with pytest.raises(InhouseError, match="no longer the knowledge that step knowledge made"):
        kernel.run(recipe)


def test_a_bundle_of_folders_has_no_recipe(kernel: Kernel, recipe: Recipe, tmp_path: Path) -> None:
    model = kernel.run(recipe)["base"]
    shutil.copytree(model.path, tmp_path / "model")
    given = Artifact("model/gguf", tmp_path / "model", model.digest, "input 1")
    steps = tuple(each for each in recipe.steps if each.name == "bundle")
    found = kernel.run(evolve(recipe, steps=steps), given={("input 1", "model/gguf"): given}).record.bundle
    assert found
    lineage = json.loads((Path(found) / "lineage.json").read_text())
    assert (lineage["recipe"], lineage["data"], lineage["steps"]) == (None, [], [])


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1, "b": True, "c": 4e-3, "d": 1e-20, "e": "x", "f": [1, "y", [False]]},
        {"a": {}, "b": {"c": {"d": 1}}, "e f": {'"g"': "h"}, "i": 2},
        {"text": '\x00\x1f\x7f\\"\'\'\'"""\n\r\t\b\f\u2028🙂 é'},
        {"list": [{"a": 1, "b": {"c": [{}]}}, []]},
    ],
)
def test_toml_is_read_back(data: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(data)) == data


def test_toml_has_no_none() -> None:
    assert tomllib.loads(toml.dumps({"a": None, "b": {"c": None}, "d": [None, {"e": None}]})) == {"b": {}, "d": [{}]}


def test_places(tmp_path: Path) -> None:
    assert is_place(str(tmp_path))
    for text in ("/", "/usr", "relative", str(tmp_path / "gone"), "/a\0b", "/" + "x" * 5000, ""):
        assert not is_place(text)
    assert without_paths({"a": ["/srv/x/y.gguf", "C:\\x\\z", "/", "b/c"]}) == {"a": ["y.gguf", "z", "/", "b/c"]}
