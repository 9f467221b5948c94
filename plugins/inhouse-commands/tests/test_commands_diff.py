"""``diff``: another seed, option, quantizer or file is named, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packed import MODULES, make, rewrite, run, told

from support.console import clear


def differences(made: Path, tmp_path: Path, *sets: str) -> dict[str, Any]:
    found: dict[str, Any] = told(["diff", str(made), str(make(tmp_path / "other", *sets))], tmp_path, 1)["differences"]
    return found


def test_a_bundle_and_its_copy_are_the_same(made: Path, bundle: Path, tmp_path: Path) -> None:
    assert told(["diff", str(made), str(bundle)], tmp_path, 0)["differences"] == {}
    assert run(["diff", str(made), str(bundle)], tmp_path).stdout == "nothing differs\n"


MEASURED = {"report.json", "report.html", "README.md"}
"""Files with measured facts in them."""


def test_another_seed(made: Path, tmp_path: Path) -> None:
    found = differences(made, tmp_path, "seed=8")
    assert found["seed"] == {"seed": {"a": 7, "b": 8}}
    assert found.keys() <= {"seed", "products", "files"}
    assert found.get("files", {}).keys() <= MEASURED  # the fakes make the same of any seed


def test_another_option(made: Path, tmp_path: Path) -> None:
    found = differences(made, tmp_path, "finetune.tune.units=2")
    assert found["options"] == {"finetune.tune.units": {"a": 3, "b": 2}}
    assert found["artifacts"].keys() == {"adapter", "model"}
    assert found["products"].keys() == {
        "finetune model/hf", "finetune adapter/peft", "quantize model/fake", "evaluate report",
    }  # fmt: skip
    assert found.keys() <= {"options", "artifacts", "products", "files"}
    assert found["files"].keys() - MEASURED == {"model/model.txt"}


def test_another_quantizer(made: Path, tmp_path: Path) -> None:
    """One that another plugin brings, under a name of its own."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "acme_quant.py").write_text(
        "from inhouse import QuantizerSpec, hookimpl\nfrom support.fakes import ShrinkOptions\n@hookimpl\n"
        "def inhouse_quantizers():\n"
        "    yield QuantizerSpec(name='press', summary='', factory='support.fakes:Shrink', options=ShrinkOptions,\n"
        "                        consumes='model/hf', produces='model/fake')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setitem(MODULES, "acme", "acme_quant")
        found = differences(made, tmp_path, "quantize.use=press")
    assert found["options"] == {
        "quantize.use": {"a": "fakes:shrink", "b": "acme:press"},
        "quantize.shrink.type": {"a": "q4", "b": None},
        "quantize.press.type": {"a": None, "b": "q4"},
    }
    assert found["plugins"] == {"quantize": {"a": "fakes 1.0", "b": "acme 1.0"}}


def test_another_file(made: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", chat='{"messages": []}\n')
    found = told(["diff", str(made), str(other)], tmp_path, 1)["differences"]
    assert found["data"].keys() == {"data.rows.chat"}
    assert "options" not in found


def test_files_are_those_that_are_there_now(made: Path, bundle: Path, tmp_path: Path) -> None:
    (bundle / "files" / "tools" / "upper" / "file.txt").write_text("mine")
    (bundle / "note").symlink_to("/etc/passwd")
    found = told(["diff", str(made), str(bundle)], tmp_path, 1)["differences"]
    assert found.keys() == {"files"}
    assert found["files"].keys() == {"files/tools/upper/file.txt", "note"}
    assert found["files"]["note"] == {"a": None, "b": "a link or device"}


def test_gates_figures_versions_and_the_rest(made: Path, bundle: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["gates"] = {"gates": {"tasks": {"passed": False, "measured": "52 of 80", "accepted": True}}}
        data["installed"]["torch"] = "9.9"
        data["template"] = {"file": "x", "sha256": "3" * 64}
        data["processor"] = "another\x1b[2J"

    report = json.loads((bundle / "report.json").read_text())
    report["tasks"] = {"base": {"solved": 3, "loss": 1.5, "kinds": {}}, "others": {"x": {"solved": 4}}}
    (bundle / "report.json").write_text(json.dumps(report))
    rewrite(bundle, change)
    found = told(["diff", str(made), str(bundle)], tmp_path, 1)["differences"]
    assert found["gates"] == {"gates.tasks": {"a": None, "b": "failed, accepted: 52 of 80"}}
    assert found["figures"] == {
        "base.solved": {"a": None, "b": 3}, "base.loss": {"a": None, "b": 1.5}, "x.solved": {"a": None, "b": 4},
    }  # fmt: skip
    assert found["versions"]["torch"]["b"] == "9.9"
    assert found["artifacts"] == {"template": {"a": None, "b": "3" * 64}}
    text = run(["diff", str(made), str(bundle)], tmp_path).stdout
    assert "gates\n  gates.tasks  - -> failed, accepted: 52 of 80\n" in text
    assert "template  - -> 333333333333\n" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("recipe", ["a = [", "a" + ".a" * 3000 + " = 1", "a = " + "[" * 3000, "a = nan\nb = [inf]"])
def test_a_hostile_recipe_and_report(made: Path, bundle: Path, tmp_path: Path, recipe: str) -> None:
    (bundle / "report.json").write_text('{"tasks": {"base": {"solved": NaN, "loss": [], "total": "\\ud800"}}}')
    rewrite(bundle, lambda data: data.update(recipe=recipe))
    done = run(["diff", str(made), str(bundle), "--json"], tmp_path)
    assert done.returncode in (1, 2), done.stderr
    assert run(["diff", str(made), str(bundle)], tmp_path).returncode == done.returncode
    clear(run(["reproduce", str(bundle)], tmp_path), 2, "error: ")
