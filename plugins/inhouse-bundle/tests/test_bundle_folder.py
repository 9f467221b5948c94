"""The bundle as a whole: made by a run, moved, opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from inhouse import Bus, InhouseError, Kernel, Recipe
from inhouse.artifacts import tree_digest
from inhouse.events import Noticed
from inhouse.plugins import Registry
from inhouse_answer.bundle import Bundle


@pytest.fixture
def bundle(kernel: Kernel, recipe: Recipe) -> Path:
    found = kernel.run(recipe).record.bundle
    assert found
    return Path(found)


def test_answers_from_where_it_was_moved_read_only(
    bundle: Path, registry: Registry, tmp_path: Path, recipe: Recipe
) -> None:
    moved = tmp_path / "elsewhere" / "a b"
    moved.parent.mkdir()
    shutil.move(bundle, moved)
    shutil.rmtree(tmp_path / "home")
    shutil.rmtree(recipe.folder)
    for path in [*moved.rglob("*"), moved]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree_digest(moved)
    with Bundle(moved, registry) as opened:
        answer = opened.ask("Hello?")
        assert opened.settings.example == "Where's order 48213?"
        assert opened.settings.name == "shop"
    assert answer.text == 'You are "the desk".\nUse shelf or second. Hello? 512'
    assert [call.observation for call in answer.calls] == ["book:returns: 30 days [table]"] * 2
    assert tree_digest(moved) == before
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o755)


def test_holds_what_it_says(bundle: Path) -> None:
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()) == [
        "Modelfile",
        "README.md",
        "bundle.json",
        "files/agent/system.txt",
        "files/knowledge/embedder/table.bin",
        "files/tools/second/book.txt",
        "files/tools/shelf/book.txt",
        "knowledge/lines.jsonl",
        "lineage.json",
        "model/model.gguf",
        "report.html",
        "report.json",
    ]


def test_names_no_place_of_this_machine(bundle: Path, tmp_path: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content, path
            assert b"/srv/somebody" not in content, path


def test_report_is_json_without_nan(bundle: Path) -> None:
    found = json.loads((bundle / "report.json").read_text(), parse_constant=pytest.fail)
    assert found["tasks"]["quantized"]["solved"] == 61
    assert [step["name"] for step in found["steps"]] == ["base", "docs", "knowledge", "evaluate"]
    assert found["model"]["kind"] == "model/gguf"


def test_modelfile_and_card(bundle: Path) -> None:
    text = (bundle / "Modelfile").read_text()
    assert text.startswith("FROM ./model/model.gguf\nTEMPLATE ")
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 512\n' in text
    assert 'SYSTEM """You are "the desk".\nUse shelf or second."""' in text
    card = (bundle / "README.md").read_text()
    (needed,) = [line for line in card.splitlines() if "pip install inhouse " in line]
    assert "inhouse-answer" in needed.split()  # what opens it
    assert """inhouse ask --bundle . 'Where'"'"'s order 48213?'""" in card
    assert "ollama create shop -f Modelfile" in card
    assert "q4_k_m, 6.25 bits per weight | 61 of 80 | 66 % to 85 %" in card
    assert "did not pass its gate" in card
    assert "<script" not in card.replace(r"\<script", "")


def test_without_report_and_knowledge(kernel: Kernel, recipe: Recipe, registry: Registry) -> None:
    steps = tuple(step for step in recipe.steps if step.name in ("base", "bundle"))
    found = kernel.run(evolve(recipe, steps=steps)).record.bundle
    assert found
    page = (Path(found) / "report.html").read_text()
    assert "was not evaluated" in page
    assert "not evaluated" in (Path(found) / "README.md").read_text()
    with Bundle(found, registry) as opened:
        assert opened.ask("x").calls[0].observation == "book:"


def test_a_link_in_an_option_folder_is_refused(kernel: Kernel, recipe: Recipe, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    folder = recipe.folder / "table"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    text = recipe.path.read_text().replace('book = "book.txt"\n[tools.second]', 'book = "table"\n[tools.second]')
    recipe.path.write_text(text)
    with pytest.raises(InhouseError, match="symbolic link"):
        kernel.run(Recipe.load(recipe.path))


def _change(folder: Path, change: Callable[[Any], None]) -> None:
    data = json.loads((folder / "bundle.json").read_text())
    change(data)
    (folder / "bundle.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["agent"]["files"].update(system="/etc/hostname"), "outside the bundle"),
        (
            lambda data: (data["agent"]["files"].clear(), data["agent"]["options"].update(system="/etc/hostname")),
            "outside",
        ),
        (lambda data: data["model"].update(folder="../.."), "outside the bundle"),
        (lambda data: data["runtimes"].clear(), "no runtime"),
        (lambda data: data["model"].clear(), "damaged"),
        (lambda data: data["agent"].pop("files"), "damaged"),
        (lambda data: data["target"].update(colour=1), "damaged"),
        (lambda data: data.update(format=99), "format 99"),
    ],
)
def test_a_bundle_that_was_tampered_with(
    bundle: Path, registry: Registry, change: Callable[[Any], None], said: str
) -> None:
    _change(bundle, change)
    with pytest.raises(InhouseError, match=said), Bundle(bundle, registry) as opened:
        opened.ask("x")


def test_a_model_without_runtime_is_packed_with_a_warning(
    kernel: Kernel, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = Bus()
    notices: list[Noticed] = []
    bus.subscribe(Noticed, notices.append)
    steps = tuple(step for step in recipe.steps if step.name in ("base", "bundle"))
    real = kernel.registry.all
    monkeypatch.setattr(kernel.registry, "all", lambda kind=None: [] if kind == "runtime" else real(kind))
    found = kernel.run(evolve(recipe, steps=steps), bus=bus).record.bundle
    assert found
    assert ["no installed runtime opens model/gguf" in each.message for each in notices] == [True]
    with pytest.raises(InhouseError, match="no runtime"):
        Bundle(found, kernel.registry)
