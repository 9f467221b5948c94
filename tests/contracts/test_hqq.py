"""A quantizer and a runtime that no first-party code knows, as a wheel: a recipe takes them by one word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inhouse_testing.conformance import check_light
from support.distributions import build_wheel, environment, inhouse, install
from support.tiny_llama import make_model

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "contrib" / "samples" / "inhouse-sample-hqq"

RECIPE = """\
name = "swap"
[target]
context = 256
[base]
use = "local"
local.path = "model"
[quantize]
use = "bitsandbytes"
[agent]
use = "react"
tools = ["calculator"]
react.system = "system.txt"
react.hand_over = false
react.max_tokens = 12
[bundle]
use = "folder"
"""
SWAP = ["--set", "quantize.use=hqq"]

CONFORMANCE = """
import sys
from pathlib import Path
from inhouse_testing import conformance
model, home = Path(sys.argv[1]), Path(sys.argv[2])
specs = conformance.specs("inhouse_sample_hqq")
for spec in specs:
    conformance.check_spec(spec)
(quantizer,) = [spec for spec in specs if spec.kind == "quantizer"]
conformance.check_stage(quantizer, {"model/hf": model}, home)
"""

SCORES = """
import json, sys
from pathlib import Path
from inhouse.plugins import Registry
from inhouse.values import Request
registry = Registry()
made = []
for kind, folder in zip(("transformers", "hqq", "hqq"), sys.argv[1:], strict=True):
    spec = registry.get("runtime", kind).spec
    runtime = registry.get("runtime", kind).load()(spec.options(device="cpu", dtype="float32"))
    with runtime.open(Path(folder), context=128, threads=1) as engine:
        asked = [Request(prompt=text, max_tokens=8) for text in ("The order", "Return")]
        alone = [engine.generate([each])[0].text for each in asked]
        assert [each.text for each in engine.generate(asked)] == alone
        assert ["".join(engine.stream(each)) for each in asked] == alone
        made += engine.logprobs([engine.tokenize("The order 48213 was shipped on 3 May and arrives soon.")])
print(json.dumps(made))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy outside of the repository and installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("hqq")
    (folder / "wheel").mkdir()
    install([build_wheel(SAMPLE, folder / "wheel")], folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with first-party words only, and the small model that it starts from."""
    folder = tmp_path_factory.mktemp("desk")
    make_model(folder / "model")
    (folder / "system.txt").write_text("Answer the question; a calculator is there.")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def python(code: str, *arguments: Path, site: Path, cwd: Path) -> str:
    """Runs code where the wheel is installed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    made = subprocess.run(command, cwd=cwd, env=environment(site), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


def run(desk: Path, *arguments: str, site: Path | None = None) -> dict[str, Any]:
    """``inhouse run`` on the recipe; its report."""
    made = inhouse(["run", "--json", *arguments], cwd=desk, target=site)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found


@pytest.fixture(scope="module")
def swapped(desk: Path, site: Path) -> dict[str, Any]:
    """The recipe with one word changed."""
    return run(desk, *SWAP, site=site)


def meta(report: dict[str, Any]) -> dict[str, Any]:
    """What the quantizer noted."""
    (found,) = (step["meta"] for step in report["steps"] if step["backend"] == "hqq")
    return dict(found)


def product(home: Path) -> Path:
    """The folder that the quantizer wrote."""
    (found,) = (home / "artifacts").glob("*/model-hqq")
    return found


def test_only_its_entry_point_makes_it_known(tmp_path: Path, site: Path) -> None:
    def backends(target: Path | None) -> list[Any]:
        made = inhouse(["plugins", "--json"], cwd=tmp_path, target=target)
        return list(json.loads(made.stdout)["backends"])

    before = backends(None)
    added = [each for each in backends(site) if each not in before]
    assert [(each["kind"], each["name"], each["distribution"]) for each in added] == [
        ("quantizer", "hqq", "inhouse-sample-hqq"),
        ("runtime", "hqq", "inhouse-sample-hqq"),
    ]


def test_no_first_party_code_names_it() -> None:
    parts = [ROOT / "core", ROOT / "plugins", ROOT / "contrib" / "recipes", ROOT / "contrib" / "dev"]
    files = [file for part in parts for file in part.rglob("*") if file.suffix in (".py", ".toml", ".txt", ".sh")]
    assert len(files) > 100
    assert [file for file in files if "hqq" in file.read_text(encoding="utf-8").lower()] == []


def test_without_it_the_recipe_says_what_is_missing(desk: Path) -> None:
    made = inhouse(["run", *SWAP], cwd=desk)
    assert made.returncode == 2
    assert "no quantizer named 'hqq' is installed" in made.stderr


def test_a_recipe_swaps_to_it_by_one_word(desk: Path, swapped: dict[str, Any]) -> None:
    first = run(desk)
    backends = [[step["backend"] for step in report["steps"]] for report in (first, swapped)]
    assert backends == [["local", "bitsandbytes", "gates", "folder"], ["local", "hqq", "gates", "folder"]]
    (judged,) = (step["meta"]["gates"] for step in swapped["steps"] if step["backend"] == "gates")
    assert judged["fit"]["state"] == "passed", "without a word in the recipe"
    folder = product(desk / ".inhouse")
    assert meta(swapped)["type"] == "hqq4"
    assert meta(swapped)["bits_per_weight"] < 16
    assert (folder / "tokenizer.json").read_bytes() == (desk / "model" / "tokenizer.json").read_bytes()
    written = (folder / "model.safetensors").stat().st_size
    assert written < 0.4 * (desk / "model" / "model.safetensors").stat().st_size


def test_its_options_are_the_recipes(desk: Path, site: Path) -> None:
    refused = inhouse(["run", *SWAP, "--set", "quantize.hqq.bits=5"], cwd=desk, target=site)
    assert refused.returncode == 2
    assert "quantize.hqq" in refused.stderr


def test_the_bundle_answers_with_it(desk: Path, site: Path) -> None:
    bundle = run(desk, *SWAP, site=site)["bundle"]
    settings = json.loads((Path(bundle) / "bundle.json").read_text())
    assert settings["runtimes"]["model/hqq"]["use"] == "inhouse-sample-hqq:hqq"
    question = ["ask", "Where is order 48213?", "--bundle", bundle, "--json"]
    made = inhouse(question, cwd=desk, target=site)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["completion_tokens"] > 0
    refused = inhouse(question, cwd=desk)
    assert refused.returncode == 2
    assert "hqq" in refused.stderr


def test_its_engine_is_near_the_original(desk: Path, swapped: dict[str, Any], site: Path) -> None:
    finer = run(desk, *SWAP, "--set", "quantize.hqq.bits=8", "--until", "quantize", "--home", "eight", site=site)
    assert meta(finer)["bits_per_weight"] > meta(swapped)["bits_per_weight"]
    folders = (desk / "model", product(desk / ".inhouse"), product(desk / "eight"))
    whole, four, eight = json.loads(python(SCORES, *folders, site=site, cwd=desk))
    apart = [sum(map(abs, map(float.__sub__, each, whole))) / len(whole) for each in (eight, four)]
    assert 0 < apart[0] < 0.1 < apart[1] < 1


def test_it_holds_what_plugins_have_to_hold(desk: Path, site: Path, tmp_path: Path) -> None:
    check_light("inhouse_sample_hqq", environment(site))
    python(CONFORMANCE, desk / "model", tmp_path / "home", site=site, cwd=tmp_path)


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    """Against what was installed: among them, less is lost than by rounding, and saved and opened it is the same."""
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SAMPLE / "tests")],
        cwd=tmp_path,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
