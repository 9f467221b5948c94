"""A vector store that no first-party code knows, as a wheel: a recipe takes it by one word and finds the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inhouse_testing.conformance import check_light
from support.distributions import build_wheel, environment, inhouse, install

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "contrib" / "samples" / "inhouse-sample-sqlitevec"

RECIPE = """\
name = "swap"
[data]
use = "jsonl"
[data.jsonl]
corpus = "corpus.jsonl"
[knowledge]
use = "sqlite"
vector_store = "exact"
[knowledge.sqlite]
chunk_tokens = 24
lexical_weight = 0.0
"""
SWAPPED = RECIPE.replace('"exact"', '"sqlite-vec"')

GOODS = ("boots", "tents", "ropes", "stoves", "maps", "gloves", "lamps", "skis")
SAID = (
    "The warranty on {0} is {1} years from the day of the order.",
    "Send {0} back within {2} days, unused and in their box, and the money is returned.",
    "Wash {0} by hand in cold water and dry them in the shade.",
)
QUESTIONS = (
    ("how long is the warranty on boots", {}),
    ("can I return a tent that I did not use", {}),
    ("how do I clean gloves", {"tenant": "south"}),
    ("money back for skis", {"tenant": ["north", "east"]}),
    ("lamps", {"tenant": "nowhere"}),
)

SEARCHED = """
import json, sys
from contextlib import closing
from inhouse.cli.common import emit
from inhouse.services import LiveServices
from inhouse_knowledge.made import made
recipe, home, questions = sys.argv[1:]
found = made(recipe, [], home)
with closing(LiveServices(found.plan.answering)) as services:
    base = services.knowledge(found.artifact)
    emit([base.search(asked, 4, where=where) for asked, where in json.loads(questions)])
"""

CONFORMANCE = """
from inhouse_testing import conformance
(spec,) = conformance.specs("inhouse_sample_sqlitevec")
conformance.check_spec(spec)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy outside of the repository and installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("sqlitevec")
    (folder / "wheel").mkdir()
    install([build_wheel(SAMPLE, folder / "wheel")], folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Path:
    """Two recipes that differ by one word, and the bases that they made, each in a home of its own."""
    folder = tmp_path_factory.mktemp("shop")
    rows = [
        {
            "id": goods,
            "title": goods.capitalize(),
            "text": " ".join(each.format(goods, at % 4 + 1, 7 * at + 7) for each in SAID),
            "metadata": {"tenant": ("north", "south", "east")[at % 3]},
        }
        for at, goods in enumerate(GOODS)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    for name, text in (("exact", RECIPE), ("swapped", SWAPPED)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        made = run(folder, name, site=site)
        assert made.returncode == 0, made.stderr
    return folder


def run(shop: Path, name: str, *, home: str = "", site: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``inhouse run`` on a recipe, in the home of its name unless told otherwise."""
    return inhouse(["run", "-q", f"{name}.toml", "--home", home or name], cwd=shop, target=site)


def python(code: str, *arguments: str, site: Path, cwd: Path) -> str:
    """Runs code where the wheel is installed."""
    command = [sys.executable, "-c", code, *arguments]
    made = subprocess.run(command, cwd=cwd, env=environment(site), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


def index(home: Path) -> Path:
    """The store's file in the base that lies in ``home``."""
    (folder,) = (home / "artifacts").rglob("index")
    (found,) = folder.iterdir()
    return found


def test_only_its_entry_point_makes_it_known(tmp_path: Path, site: Path) -> None:
    def backends(target: Path | None) -> list[Any]:
        made = inhouse(["plugins", "--json"], cwd=tmp_path, target=target)
        return list(json.loads(made.stdout)["backends"])

    before = backends(None)
    (added,) = (each for each in backends(site) if each not in before)
    assert (added["kind"], added["name"]) == ("vector_store", "sqlite-vec")
    assert added["distribution"] == "inhouse-sample-sqlitevec"


def test_no_first_party_code_names_it() -> None:
    parts = [ROOT / "core", ROOT / "plugins", ROOT / "contrib" / "recipes"]
    files = [file for part in parts for file in part.rglob("*") if file.suffix in (".py", ".toml", ".txt", ".sh")]
    assert len(files) > 100
    texts = {file: file.read_text(encoding="utf-8").lower() for file in files}
    assert [file for file, text in texts.items() if any(each in text for each in ("sqlite-vec", "sqlitevec"))] == []


def test_without_it_the_recipe_says_what_is_missing(shop: Path) -> None:
    made = run(shop, "swapped", home="none")
    assert made.returncode == 2
    assert "no vector_store named 'sqlite-vec' is installed" in made.stderr


def test_a_recipe_swaps_to_it_by_one_word_and_finds_the_same(shop: Path, site: Path) -> None:
    changed = set(SWAPPED.split()) ^ set(RECIPE.split())
    assert changed == {'"exact"', '"sqlite-vec"'}
    theirs, ours = (
        json.loads(python(SEARCHED, f"{name}.toml", name, json.dumps(QUESTIONS), site=site, cwd=shop))
        for name in ("exact", "swapped")
    )
    assert [len(each) for each in theirs] == [4, 4, 4, 4, 0]
    for asked, wanted, found in zip(QUESTIONS, theirs, ours, strict=True):
        scores = [[each.pop("score") for each in passages] for passages in (wanted, found)]
        assert found == wanted, asked
        assert scores[1] == pytest.approx(scores[0], abs=2e-6)
    assert inhouse(["artifacts", "--verify", "--home", "swapped"], cwd=shop, target=site).returncode == 0


def test_it_makes_the_same_file_again_from_the_documents_and_from_the_base(shop: Path, site: Path) -> None:
    again = run(shop, "swapped", home="again", site=site)
    assert again.returncode == 0, again.stderr
    path, whole = index(shop / "again"), index(shop / "swapped").read_bytes()
    assert path.name == index(shop / "swapped").name
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    doctor = ["knowledge", "doctor", "--recipe", "swapped.toml", "--home", "again"]
    assert inhouse(doctor, cwd=shop, target=site).returncode == 1
    mended = inhouse([*doctor, "--mend"], cwd=shop, target=site)
    assert mended.returncode == 0, mended.stderr
    assert path.read_bytes() == whole


def test_its_options_are_the_recipes(shop: Path, site: Path) -> None:
    refused = inhouse(["run", "swapped.toml", "--set", "knowledge.sqlite-vec.cache=0"], cwd=shop, target=site)
    assert refused.returncode == 2
    assert "knowledge.sqlite-vec" in refused.stderr


def test_it_holds_what_plugins_have_to_hold(site: Path, tmp_path: Path) -> None:
    check_light("inhouse_sample_sqlitevec", environment(site))
    python(CONFORMANCE, site=site, cwd=tmp_path)


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    """Against what was installed: among them the rules that every vector store is held to."""
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SAMPLE / "tests")],
        cwd=tmp_path,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
