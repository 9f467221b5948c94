"""inhouse tune as users see it, over a trainer whose held-out loss is a known function of its options."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from inhouse import Recipe
from support.console import clear, here
from support.fakes import write_recipe
from support.learner import RECIPE, UNITS, LearnOptions, loss
from support.tuning import LEARNER, told, tune

RATES = ("--range", "learning_rate=1e-4..1e-1")


def settings(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["params"] for each in found["trials"]]


def units(folder: Path) -> list[list[str]]:
    """Rank, rate, batch size and unit of each unit that was trained."""
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def stored(folder: Path, place: str = "artifacts") -> set[str]:
    return {each.name for each in (folder / ".inhouse" / place).iterdir()}


def finetunes(folder: Path) -> set[str]:
    manifests = (folder / ".inhouse" / "artifacts").glob("*/manifest.json")
    return {each.parent.name for each in manifests if json.loads(each.read_text())["step"] == "finetune"}


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes half a second; only a test that asks for ``drawn`` draws."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("inhouse_tune.plots.draw", lambda *_: b"")


@pytest.fixture
def drawn() -> None:
    """The picture is drawn."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A folder in which 9 trials were made, what was told, and standard error."""
    folder = tmp_path_factory.mktemp("searched")
    made = tune(folder, "--trials", "9", "--json")
    assert made.returncode == 0, made.stderr
    return folder, json.loads(made.stdout), made.stderr


def test_the_best_is_the_lowest_and_its_sets_are_a_recipes(searched: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = searched
    whole = [each for each in found["trials"] if each["state"] == "done"]
    assert found["best"] == min(whole, key=lambda each: each["heldout_loss"])
    assert found["best"]["heldout_loss"] < found["trials"][0]["heldout_loss"]
    recipe = Recipe.load(folder / "recipe.toml", set=found["set"], environment={})
    (step,) = (each for each in recipe.steps if each.name == "finetune")
    table = {key: value for key, value in step.section.tables["learn"].items() if key != "log"}
    assert {**table, **found["best"]["params"]} == table
    assert found["best"]["heldout_loss"] == pytest.approx(loss(LearnOptions(**table)))
    for each in whole:
        assert each["curve"][-1] == [each["at"], each["heldout_loss"]]


def test_the_first_trial_is_the_recipes_own_setting(searched: tuple[Path, dict[str, Any], str]) -> None:
    _, found, _ = searched
    assert settings(found)[0] == {"rank": 8, "learning_rate": 1e-3, "batch_size": 4}
    for each in settings(found):
        assert each["rank"] in (4, 8, 16, 32)
        assert each["batch_size"] in (2, 4, 8, 16)
        assert 1e-4 <= each["learning_rate"] <= 1e-2


def test_the_pasted_command_finds_the_winner_in_the_store(searched: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = searched
    words = shlex.split(found["command"])
    assert words[:3] == ["inhouse", "run", "recipe.toml"]
    assert [each for each in words if "=" in each] == found["set"]
    before = len(units(folder))
    made = here([*words[1:], "--json"], folder, LEARNER)
    assert made.returncode == 0, made.stderr
    cached = {each["name"]: each["cached"] for each in json.loads(made.stdout)["steps"]}
    assert cached["finetune"]
    assert len(units(folder)) == before


def test_a_hopeless_trial_is_cut_short(searched: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = searched
    states = [each["state"] for each in found["trials"]]
    assert states[:4] == ["done"] * 4  # whole trials to compare with
    assert "cut short" in states
    for each in found["trials"]:
        key = [str(each["params"][name]) for name in ("rank", "learning_rate", "batch_size")]
        trained = [int(line[3]) for line in units(folder) if line[:3] == key]
        assert (trained == list(range(1, UNITS + 1))) == (each["state"] == "done")
        if each["state"] == "cut short":
            assert each["heldout_loss"] > found["best"]["heldout_loss"]
            assert each["fingerprint"] not in stored(folder, "work")


def test_only_the_best_is_left_in_the_store(searched: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = searched
    assert finetunes(folder) == {found["best"]["fingerprint"]}
    assert len(stored(folder)) <= 4  # base, data and quantize of the test above
    assert stored(folder, "work") == set()


def test_what_is_said_on_the_way(searched: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, errors = searched
    lines = [line for line in errors.splitlines() if line.startswith("trial ")]
    assert len(lines) == 9
    assert lines[0].startswith("trial 1 of 9 (rank=8, learning_rate=0.001, batch_size=4): done, held-out loss 0.88")
    assert "the best so far" in lines[found["best"]["number"] - 1]
    assert "finetune.learn.evaluations is 4 in trials, not 1" in errors
    assert Path(found["plot"]) == folder / ".inhouse/tune/desk-finetune.png"
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert Path(found["storage"]) == folder / ".inhouse/tune/desk-finetune.db"


def test_asked_again_it_shows_the_same(searched: tuple[Path, dict[str, Any], str], drawn: None) -> None:
    folder, found, _ = searched
    before = len(units(folder))
    picture = Path(found["plot"]).read_bytes()
    assert told(folder, "--trials", "9", "--plot", "again.png") == {**found, "plot": str(folder / "again.png")}
    assert (folder / "again.png").read_bytes() == picture
    made = tune(folder, "--trials", "9", "--plot", "again.png")
    lines = made.stdout.splitlines()
    assert lines[0].split("  ")[0] == "trial"
    assert lines[0].split()[1:4] == ["rank", "learning_rate", "batch_size"]
    assert [line.split()[0] for line in lines[1:10]] == [str(number) for number in range(1, 10)]
    assert "(the recipe's own setting, trial 1: 0.8876)" in made.stdout
    assert lines[-1] == found["command"]
    assert len(units(folder)) == before


def test_the_same_seed_gives_the_same_trials_and_another_others(
    searched: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, found, _ = searched
    same = told(tmp_path / "same", "--trials", "3")
    assert settings(same) == settings(found)[:3]
    other = told(tmp_path / "other", "--trials", "3", text=RECIPE.replace("seed = 7", "seed = 8"))
    assert settings(other)[0] == settings(found)[0]
    assert settings(other)[1:] != settings(found)[1:3]


def test_going_on_makes_what_an_unbroken_search_would(
    searched: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, found, _ = searched
    told(tmp_path, "--trials", "2")
    more = told(tmp_path, "--trials", "6")
    assert [(each["params"], each["state"]) for each in more["trials"]] == [
        (each["params"], each["state"]) for each in found["trials"][:6]
    ]
    assert len(units(tmp_path)) == sum(each["at"] for each in more["trials"])  # no unit twice


def test_ctrl_c_keeps_the_study_and_the_trial(searched: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    _, found, _ = searched
    arguments = ("--trials", "3", "--set", f"finetune.learn.interrupt={UNITS + 3}")
    made = tune(tmp_path, *arguments)
    clear(made, 130, "stopped after 1 of 3 trials")
    assert "try: the same command goes on" in made.stderr
    assert len(units(tmp_path)) == UNITS + 3
    again = told(tmp_path, *arguments)
    assert settings(again) == settings(found)[:3]
    assert [each["state"] for each in again["trials"]] == ["done"] * 3
    assert [line[3] for line in units(tmp_path)] == [str(unit) for unit in range(1, UNITS + 1)] * 3
    assert again["trials"][1]["curve"] == found["trials"][1]["curve"]


@pytest.mark.parametrize(
    ("old", "new", "same", "trained"),
    [
        ("learning_rate = 1e-3", "learning_rate = 2e-3", True, 1),  # what is searched
        ("rank = 8", "rank = 16", False, 2),
        ("seed = 7", "seed = 8", False, 2),
        ('use = "blank"', 'use = "blank"\nblank.text = "another model"', False, 2),
        ('name = "desk"', 'name = "office"', False, 1),  # the model is found in the store
    ],
)
def test_a_changed_recipe_is_a_new_study(tmp_path: Path, old: str, new: str, same: bool, trained: int) -> None:
    first = told(tmp_path, "--trials", "1", *RATES)
    again = told(tmp_path, "--trials", "1", *RATES, text=RECIPE.replace(old, new))
    assert (again["study"] == first["study"]) == same
    assert len(again["trials"]) == 1
    assert len(units(tmp_path)) == trained * UNITS


def test_another_range_is_a_new_study(tmp_path: Path) -> None:
    first = told(tmp_path, "--trials", "1", *RATES)
    assert told(tmp_path, "--trials", "1", "--range", "learning_rate=1e-4..1e-2")["study"] != first["study"]


def test_a_model_that_was_there_before_stays(tmp_path: Path) -> None:
    write_recipe(tmp_path, RECIPE)
    made = here(["run", "--until", "finetune", "--set", "finetune.learn.evaluations=4", "-q"], tmp_path, LEARNER)
    assert made.returncode == 0, made.stderr
    (mine,) = finetunes(tmp_path)
    found = told(tmp_path, "--range", "rank=8,16,32")
    assert found["trials"][0]["fingerprint"] == mine
    assert found["best"]["params"] == {"rank": 16}
    assert finetunes(tmp_path) == {mine, found["best"]["fingerprint"]}
    assert len(units(tmp_path)) == 2 * UNITS  # the first was found


def test_a_finite_space_ends_when_all_of_it_was_tried(tmp_path: Path) -> None:
    made = tune(tmp_path, "--range", "decay=cosine,linear", "--range", "batch_size=8..9")
    assert made.returncode == 0, made.stderr
    assert "every setting was tried: 4 trials" in made.stderr
    assert "--set finetune.learn.decay=linear --set finetune.learn.batch_size=8" in made.stdout


# --- alpha goes with the rank -----------------------------------------------------------------------


def test_alpha_goes_with_the_rank(tmp_path: Path) -> None:
    found = told(tmp_path, "--range", "rank=8,16")
    assert found["best"]["params"] == {"rank": 16}
    assert found["set"][-3:] == [
        "finetune.learn.rank=16",
        "finetune.learn.alpha=32.0",
        "finetune.learn.evaluations=4",
    ]


@pytest.mark.parametrize("sets", ["finetune.learn.alpha=16", "finetune.learn.rslora=true"])
def test_alpha_stays_where_it_is_held_or_scaled_by_the_root(tmp_path: Path, sets: str) -> None:
    found = told(tmp_path, "--range", "rank=8,16", "--set", sets)
    assert not [each for each in found["set"] if each.startswith("finetune.learn.alpha=32")]
    assert sets in found["set"]


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_trial_that_fails_is_told_and_the_search_goes_on(tmp_path: Path) -> None:
    found = told(
        tmp_path, "--range", "rank=8,64", "--range", "learning_rate=1e-3,1e-1",
        "--set", "finetune.learn.diverges=0.05", "--set", "finetune.learn.hungry=60",
    )  # fmt: skip
    reasons = {(each["params"]["rank"], each["params"]["learning_rate"]): each["reason"] for each in found["trials"]}
    assert reasons == {
        (8, 1e-3): "",
        (8, 1e-1): "the loss is not a number at step 1",
        (64, 1e-3): "no memory for this rank",
        (64, 1e-1): "no memory for this rank",
    }
    states = [each["state"] for each in found["trials"]]
    assert sorted(states) == ["done", "failed", "failed", "failed"]
    assert found["best"]["params"] == {"rank": 8, "learning_rate": 1e-3}
    assert stored(tmp_path, "work") == set()


def test_all_trials_failed(tmp_path: Path) -> None:
    made = tune(tmp_path, "--range", "rank=8,16", "--set", "finetune.learn.diverges=1e-9")
    clear(made, 1, "finetune: all 2 trials failed; the last: the loss is not a number at step 1")


def test_a_fault_of_the_disk_is_no_trials_fault(tmp_path: Path) -> None:
    made = tune(tmp_path, "--range", "rank=8,16", "--set", f"finetune.learn.log={tmp_path}")
    clear(made, 1, "IsADirectoryError")
    assert [each["state"] for each in told(tmp_path, "--range", "rank=8,16")["trials"]] == ["done", "done"]


def test_no_heldout_loss_is_told(tmp_path: Path) -> None:
    made = tune(tmp_path, "--set", "finetune.learn.mute=true")
    clear(made, 2, "finetune.learn: the trainer measured no held-out loss, so that there is nothing to compare")
    assert "try: give the data step a held-out file, or --set finetune.learn.evaluations=4" in made.stderr
    assert finetunes(tmp_path) == set()


def test_measurements_turned_off_are_told_before_any_work(tmp_path: Path) -> None:
    made = tune(tmp_path, "--set", "finetune.learn.evaluations=0")
    clear(made, 2, "--set finetune.learn.evaluations=0: without measurements there is nothing to compare")
    assert not (tmp_path / ".inhouse").exists()


def test_measurements_that_were_asked_for_are_kept(tmp_path: Path) -> None:
    made = tune(tmp_path, "--trials", "1", "--set", "finetune.learn.evaluations=1")
    assert "in trials, not" not in made.stderr
    made = tune(tmp_path, "--trials", "1", text=RECIPE.replace("rank = 8", "rank = 8\nevaluations = 2"))
    assert "in trials, not" not in made.stderr
    made = tune(tmp_path, "--trials", "1", text=RECIPE.replace("rank = 8", "rank = 8\nevaluations = 0"))
    assert "finetune.learn.evaluations is 4 in trials, not 0" in made.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--range", "rnak=4..8"], "--range rnak=4..8: unknown option of finetune.learn 'rnak'; did you mean 'rank'?"),
        (["--range", "finetune.lern.rank=4..8"], "did you mean 'finetune.learn.rank'?"),
        (["--range", "rank"], "--range rank: needs KEY=LOW..HIGH or KEY=a,b,c"),
        (["--range", "rank=8..4"], "--range rank=8..4: 8 is not below 4"),
        (["--range", "rank=4"], "--range rank=4: is one value, no range"),
        (["--range", "rank=4..x"], "--range rank=4..x: 'x' is no int"),
        (["--range", "rank=4..8.5"], "'8.5' is no int"),
        (["--range", "learning_rate=1e-4..nan"], "'nan' is no float"),
        (["--range", "rank=0..8"], "--range rank=0..8: "),
        (["--range", "decay=cosine,sine"], "--range decay=cosine,sine: "),
        (["--range", "rslora=true,maybe"], "'maybe' is no bool"),
        (["--range", "rank=4..8", "--range", "finetune.learn.rank=2,4"], "rank has a range already"),
        (["--step", "finetun"], "--step: unknown step 'finetun'; did you mean 'finetune'?"),
        (["--step", "quantize"], "--step: quantize is a quantizer; a held-out loss comes from a trainer: finetune"),
        (["--set", "finetune.learn.rnk=3"], "unknown key 'rnk'"),
        (["--plot", "nowhere/plot.png"], "nowhere/plot.png: is no place for a file"),
        (["--storage", "nowhere/trials.db"], "nowhere/trials.db: is no place for a file"),
        (["--storage", "carrier://pigeon"], "--storage: is no database's URL"),
        (["--storage", "postgresql://me:secret@far.example/trials"], "this database is on the network"),
        (["--storage", "recipe.toml"], "recipe.toml: the study cannot be kept here: "),
        (["--set", "base.blank.refuse=broken"], "broken"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_clear_line_and_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    made = tune(tmp_path, *arguments)
    clear(made, 2, said)
    assert "secret" not in made.stderr
    assert units(tmp_path) == []


def test_what_is_held_by_set_is_not_searched(tmp_path: Path) -> None:
    found = told(tmp_path, "--trials", "1", "--set", "finetune.learn.rank=16")
    assert settings(found) == [{"learning_rate": 1e-3, "batch_size": 4}]
    assert "finetune.learn.rank=16" in found["set"]
    held = [
        word
        for name in ("rank=8", "learning_rate=1e-3", "batch_size=4")
        for word in ("--set", f"finetune.learn.{name}")
    ]
    clear(tune(tmp_path, *held), 2, "rank, learning_rate and batch_size of finetune.learn are not there or held")


def test_storage_in_another_file_and_home_in_another_folder(tmp_path: Path) -> None:
    found = told(tmp_path, "--trials", "1", "--storage", "trials.db", "--home", "elsewhere")
    assert found["storage"] == str(tmp_path / "trials.db")
    assert (tmp_path / "trials.db").is_file()
    assert found["plot"] == str(tmp_path / "elsewhere/tune/desk-finetune.png")
    assert found["command"].endswith(" --home elsewhere")
    assert not (tmp_path / ".inhouse").exists()


def test_a_recipe_without_a_trainer(tmp_path: Path) -> None:
    text = '[target]\ncontext = 64\n[base]\nuse = "blank"\n'
    clear(tune(tmp_path, text=text + "[finetune]\nuse = 'learn'\n"), 2, "step 'finetune' needs text/chat")
    write_recipe(tmp_path, text)
    clear(here(["tune"], tmp_path, LEARNER), 2, "recipe.toml: has no trainer step to tune")
