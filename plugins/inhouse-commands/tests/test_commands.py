"""The commands of the workbench: what they print, as text and as JSON, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inhouse import Recipe
from support.console import fails, here, out
from support.fakes import write_recipe


def test_plan(done: Path) -> None:
    plan = out(["plan", "--json"], done)
    assert [(each["name"], each["cached"]) for each in plan["steps"]][:2] == [("base", True), ("data", True)]
    assert plan["disk_bytes"] == 0
    text = out(["plan", "--set", "quantize.shrink.type=q8"], done)
    assert [line.split()[0] for line in text.splitlines() if "will run" in line] == ["quantize", "evaluate", "bundle"]


def test_report(done: Path) -> None:
    report = out(["report", "--json"], done)
    assert {"name", "backend", "seconds", "cached"} <= report["steps"][0].keys()
    assert report["bundle"] == str(done / ".inhouse/bundles/fake")
    assert report["peak_memory_bytes"] > 0
    assert report["answers"]
    assert "bundle: " in out(["report"], done)


def test_report_has_a_row_for_each_gate(done: Path) -> None:
    assert out(["report", "--json"], done)["gates"] == []
    (path,) = (done / ".inhouse/runs").glob("*/run.json")
    record = json.loads(path.read_text())
    whole = json.dumps(record)
    record["steps"][-1]["meta"]["gates"] = {
        "fit": {"passed": True, "state": "passed", "measured": "301 MB", "accepted": False},
        "survival": {"passed": False, "state": "failed", "measured": "half of it", "accepted": True},
        "odd": 7,
    }
    path.write_text(json.dumps(record))
    try:
        assert out(["report", "--json"], done)["gates"] == [
            {"gate": "fit", "state": "passed", "measured": "301 MB"},
            {"gate": "survival", "state": "failed, accepted", "measured": "half of it"},
        ]
        assert "survival  failed, accepted  half of it" in out(["report"], done)
    finally:
        path.write_text(whole)


def test_config(done: Path) -> None:
    values = out(["config", "--set", "finetune.tune.units=9", "--json"], done)
    assert values["finetune.tune.units"] == {"value": 9, "from": "--set finetune.tune.units=9"}
    assert values["finetune.tune.rate"] == {"value": 0.5, "from": f"{done}/recipe.toml:19"}
    assert values["finetune.tune.pause"] == {"value": 0.0, "from": "default"}
    assert values["knowledge.vector_store"] == {"value": "pile", "from": "default"}


def test_artifacts(done: Path) -> None:
    assert len(out(["artifacts", "--json"], done)) == 7
    assert "quantize" in out(["artifacts", "--verify"], done)


def test_events_are_shown_and_replayed(done: Path) -> None:
    events = out(["events", "--json"], done)
    assert events[0]["event"]["type"] == "RunStarted"
    assert len(out(["events"], done).splitlines()) == len(events)
    out(["events", "--replay"], done)


def test_doctor(tmp_path: Path) -> None:
    told = out(["doctor", "--json"], tmp_path)
    assert told["machine"]["cores"] >= 1
    assert told["failed"] == []
    assert {"kind": "source", "name": "blank", "ok": True, "reason": ""} in told["backends"]
    assert {"kind": "source", "name": "rows", "ok": True, "reason": ""} in told["backends"]


def test_doctor_finds_a_broken_plugin(tmp_path: Path) -> None:
    made = here(["doctor"], tmp_path, {"broken": "nowhere_at_all"})
    assert made.returncode == 3
    assert "failed: broken 1.0: ModuleNotFoundError" in made.stdout


def test_init_writes_a_recipe_and_overwrites_nothing(tmp_path: Path) -> None:
    made = here(["init", "desk"], tmp_path)
    assert made.returncode == 0, made.stderr
    assert "desk/recipe.toml" in made.stdout.splitlines()
    for line in made.stdout.splitlines():
        assert (tmp_path / line).is_file()
    (tmp_path / "desk" / "recipe.toml").write_text("mine")
    fails(["init", "desk"], tmp_path, 2, "desk/recipe.toml: exists already; nothing was written")
    assert (tmp_path / "desk" / "recipe.toml").read_text() == "mine"


def test_what_init_writes_is_a_recipe(tmp_path: Path) -> None:
    here(["init"], tmp_path)

    recipe = Recipe.load(tmp_path / "recipe.toml", environment={})
    steps = ["base", "data", "finetune", "quantize", "knowledge", "gates", "bundle"]
    assert [step.name for step in recipe.steps] == steps
    for line in (tmp_path / "train.jsonl").read_text().splitlines():
        assert json.loads(line)["messages"]


# --- one stage alone --------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.txt").write_text("mine")
    return tmp_path / "model"


def test_step(model: Path, tmp_path: Path) -> None:
    first = out(["step", "quantizer", "shrink", "model", "--type", "8", "--output", "small"], tmp_path)
    assert first == f"{tmp_path}/small\n"
    assert (tmp_path / "small" / "model.txt").read_text() == "8(mine)"
    second = out(["step", "quantizer", "shrink", "model", "--type", "8", "--json"], tmp_path)
    assert second["meta"]["bits_per_weight"] == 4.5
    assert (Path(second["folders"]["model/fake"]) / "model.txt").read_text() == "8(mine)"


def test_a_step_with_two_inputs_and_two_products(model: Path, tmp_path: Path) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "train.jsonl").touch()
    made = out(["step", "trainer", "tune", "model", "chat", "--units", "2", "--output", "o"], tmp_path)
    assert made.splitlines() == [f"{tmp_path}/o/model-hf", f"{tmp_path}/o/adapter-peft"]
    assert (tmp_path / "o" / "model-hf" / "model.txt").read_text() == "mine+[0, 1]@0.1"


def test_a_step_without_inputs(tmp_path: Path) -> None:
    out(["step", "source", "blank", "--text", "hello", "--output", "o"], tmp_path)
    assert (tmp_path / "o" / "model.txt").read_text() == "hello"


def test_step_help_shows_the_options(tmp_path: Path) -> None:
    assert "quantizer" in out(["step", "--help"], tmp_path)
    assert "shrink" in out(["step", "quantizer", "--help"], tmp_path)
    text = out(["step", "trainer", "tune", "--help"], tmp_path)
    assert "learning rate" in text
    assert "--fail-at" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quantizer", "shrnik", "model"], "no quantizer named 'shrnik' is installed"),
        (["quantizer", "shrink", "gone"], "gone: no such folder"),
        (["quantizer", "shrink", "model/gguf=model"], "model/gguf=model: takes model/hf, not model/gguf"),
        (["quantizer", "shrink", "model", "--output", "model"], "model: exists already"),
        (["trainer", "tune", "model", "model", "--rate", "fast"], "--rate"),
        (["packager", "box", "model"], "takes model/*, not model/*"),
    ],
)
def test_a_wrong_step_is_told(model: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    fails(["step", *arguments], tmp_path, 2, said)


def test_a_step_with_too_few_folders(tmp_path: Path) -> None:
    made = here(["step", "trainer", "tune"], tmp_path)
    assert made.returncode == 2
    assert "takes model/hf text/chat" in made.stderr


def test_a_damaged_artifact_is_found_by_verify(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    here(["run", "-q"], tmp_path)
    (path,) = (tmp_path / ".inhouse" / "artifacts").glob("*/model-fake/model.txt")
    path.write_text(path.read_text().replace("q4", "q5"))
    made = here(["artifacts", "--verify"], tmp_path)
    assert made.returncode == 1
    assert "model-fake/model.txt" in made.stderr
