"""What a third party ships, as wheels built outside the repository and installed by pip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inhouse_testing.conformance import check_light
from support.distributions import build_wheel, environment, inhouse, install, install_fakes, write_distribution
from support.fakes import RECIPE, write_recipe

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
QUANTIZER = CONTRIB / "samples" / "inhouse-sample-quantizer"
BROKEN = CONTRIB / "samples" / "inhouse-sample-broken"
TEMPLATE = CONTRIB / "plugin-template"

MAKE_MODEL = """
import sys, numpy
from safetensors.numpy import save_file
rng = numpy.random.default_rng(7)
save_file({"w": rng.normal(size=(8, 32)).astype("float32"), "norm": numpy.ones(32, "float16")},
          sys.argv[1] + "/model.safetensors")
open(sys.argv[1] + "/config.json", "w").write("{}")
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Built from copies outside of the repository."""
    folder = tmp_path_factory.mktemp("wheels")
    found = {}
    for project, name in ((QUANTIZER, "quantizer"), (BROKEN, "broken"), (TEMPLATE, "acme_quant")):
        (folder / name).mkdir()
        found[name] = build_wheel(project, folder / name)
    return found


@pytest.fixture(scope="module")
def target(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both samples installed, and the fakes."""
    folder = tmp_path_factory.mktemp("site")
    install([wheels["quantizer"], wheels["broken"]], folder)
    install_fakes(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a small model, without loading numpy here."""
    (tmp_path / "model").mkdir()
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(tmp_path / "model")], check=True)
    return tmp_path / "model"


def listed(cwd: Path, target: Path | None) -> dict[str, Any]:
    made = inhouse(["plugins", "--json"], cwd=cwd, target=target)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def test_the_good_one_is_found_and_the_broken_one_changes_nothing_else(tmp_path: Path, target: Path) -> None:
    before, after = listed(tmp_path, None), listed(tmp_path, target)
    assert after["failed"] == [
        *before["failed"],
        {
            "distribution": "inhouse-sample-broken",
            "plugin": "broken",
            "version": "0.1.0",
            "reason": "ImportError: libacme.so.3: cannot open shared object file: No such file or directory",
        },
    ]
    added = [each for each in after["backends"] if each not in before["backends"]]
    assert [each for each in added if each["distribution"] == "inhouse-sample-quantizer"] == [
        {
            "kind": "quantizer",
            "name": "int8",
            "summary": "int8 weights with one scale a row, in safetensors",
            "distribution": "inhouse-sample-quantizer",
            "version": "0.1.0",
        }
    ]
    assert [each for each in before["backends"] if each not in after["backends"]] == []


def test_the_broken_one_is_named_with_what_to_type(tmp_path: Path, target: Path) -> None:
    text = inhouse(["plugins"], cwd=tmp_path, target=target).stdout
    assert "failed: inhouse-sample-broken 0.1.0 (broken): ImportError: libacme.so.3" in text
    assert "pip uninstall inhouse-sample-broken" in text


def recipe_of_a_model(tmp_path: Path, model: Path) -> str:
    """The fakes' recipe with a source that takes the small model."""
    write_distribution(
        tmp_path / "more",
        "folder-source",
        {"folder": "folder_source"},
        {
            "folder_source": "import shutil\nfrom pathlib import Path\nfrom attrs import frozen\n"
            "from inhouse import SourceSpec, hookimpl\n"
            "@frozen\nclass Options:\n    path: Path\n"
            "class Source:\n    def __init__(self, options): self.options = options\n"
            "    def produce(self, step):\n        shutil.copytree(self.options.path, step.output, dirs_exist_ok=True)\n"
            "@hookimpl\ndef inhouse_sources():\n"
            "    yield SourceSpec(name='folder', summary='', options=Options, factory='folder_source:Source',"
            " produces='model/hf')\n"
        },
    )
    return f'name = "swap"\n[base]\nuse = "folder"\nfolder.path = "{model}"\n[quantize]\nuse = "shrink"\n'


def test_a_recipe_swaps_to_it_by_one_word(tmp_path: Path, target: Path, model: Path) -> None:
    text = recipe_of_a_model(tmp_path, model)
    (tmp_path / "recipe.toml").write_text(text.replace('use = "shrink"', 'use = "int8"'))
    paths = environment(target)["PYTHONPATH"]
    made = inhouse(["run", "--json"], cwd=tmp_path, target=tmp_path / "more")
    assert made.returncode == 2  # not installed: said in one line
    assert "no quantizer named 'int8' is installed" in made.stderr
    env = environment(tmp_path / "more")
    made = inhouse(["run", "--json"], cwd=tmp_path, PYTHONPATH=f"{env['PYTHONPATH']}:{paths}")
    assert made.returncode == 0, made.stderr
    assert [each["backend"] for each in json.loads(made.stdout)["steps"]] == ["folder", "int8"]
    (written,) = (tmp_path / ".inhouse" / "artifacts").glob("*/model-int8")
    assert sorted(each.name for each in written.iterdir()) == ["config.json", "model.safetensors"]
    assert (written / "model.safetensors").stat().st_size < (model / "model.safetensors").stat().st_size


def test_the_whole_recipe_of_fakes_runs_beside_the_broken_one(tmp_path: Path, target: Path) -> None:
    write_recipe(tmp_path, RECIPE)
    made = inhouse(["run", "-q"], cwd=tmp_path, target=target)
    assert made.returncode == 0, made.stderr
    events = inhouse(["events", "--json"], cwd=tmp_path, target=target)
    failed = [each["event"] for each in json.loads(events.stdout) if each["event"]["type"] == "PluginFailed"]
    assert [each["plugin"] == "inhouse-sample-broken 0.1.0" for each in failed].count(True) == 1


def test_it_runs_alone(tmp_path: Path, target: Path, model: Path) -> None:
    made = inhouse(
        ["step", "quantizer", "int8", str(model), "--output", "small", "--json"], cwd=tmp_path, target=target
    )
    assert made.returncode == 0, made.stderr
    assert 8 < json.loads(made.stdout)["meta"]["bits_per_weight"] < 12
    assert (tmp_path / "small" / "config.json").exists()


def test_a_hostile_model_is_refused_in_one_line(tmp_path: Path, target: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\xff" * 100)
    made = inhouse(["step", "quantizer", "int8", "model"], cwd=tmp_path, target=target)
    assert made.returncode == 2
    assert "is no safetensors file" in made.stderr
    assert "inhouse-sample-quantizer 0.1.0 (int8)" in made.stderr
    assert "Traceback" not in made.stderr


def run_tests_of(project: Path, target: Path, tmp_path: Path) -> None:
    """Runs a project's own tests against what was installed, out of the repository."""
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project / "tests")],
        cwd=tmp_path,
        env=environment(target),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr


CONFORMANCE = """
import sys
from pathlib import Path
from inhouse_testing import conformance
module, inputs, home = sys.argv[1], {"model/hf": Path(sys.argv[2])}, Path(sys.argv[3])
(spec,) = conformance.specs(module)
conformance.check_spec(spec)
conformance.check_stage(spec, inputs, home)
"""


@pytest.mark.parametrize(
    ("project", "wheel", "module"),
    [(TEMPLATE, "acme_quant", "acme_quant"), (QUANTIZER, "quantizer", "inhouse_sample_quantizer")],
)
def test_a_plugin_holds_what_plugins_have_to_hold(
    wheels: dict[str, Path], tmp_path: Path, model: Path, project: Path, wheel: str, module: str
) -> None:
    site = tmp_path / "site"
    install([wheels[wheel]], site)
    check_light(module, environment(site))
    made = subprocess.run(
        [sys.executable, "-c", CONFORMANCE, module, str(model), str(tmp_path / "home")],
        cwd=tmp_path,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    run_tests_of(project, site, tmp_path)


def test_the_template_stays_small() -> None:
    lines = [each for path in TEMPLATE.glob("acme_quant/*.py") for each in path.read_text().splitlines()]
    assert len(lines) <= 70
