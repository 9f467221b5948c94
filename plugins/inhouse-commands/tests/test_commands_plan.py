"""``inhouse plan``: what it says of time and memory, measured on trainers of fakes in a process of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inhouse import Kernel, Recipe
from inhouse.plan import Plan
from inhouse_commands import plan as command
from inhouse_commands.estimate import Trials, smaller
from inhouse_commands.plan import available_bytes, human_seconds
from inhouse_commands.trial import Tick, seconds_of
from support.console import here, out
from support.distributions import CONSOLE, TESTS, environment, registry, write_distribution
from support.fakes import RECIPE, write_recipe

ODD = '''
"""Trainers that go wrong, or train twice."""

import os
import signal
import socket
import time

from attrs import field, frozen

from inhouse import TrainerSpec, hookimpl
from inhouse.errors import DataError


@frozen
class Options:
    how: str = field(default="killed", metadata={"help": "how it goes wrong"})
    batch_size: int = field(default=8, metadata={"help": "rows"})
    evaluations: int = field(default=0, metadata={"help": "in an epoch"})
    epochs: int = field(default=3, metadata={"help": "passes"})


class Odd:
    def __init__(self, options):
        self.options = options

    def train(self, step, model, data):
        print("a line that is no reading", flush=True)
        if self.options.how == "data":
            raise DataError("row 3 is no chat", where="chat.jsonl:3", hint="mend it")
        if self.options.how == "network":
            socket.create_connection(("192.0.2.1", 80))
        if self.options.how == "exit":
            os._exit(9)
        if self.options.how == "mute":
            signal.pause()
        if self.options.how == "well":
            return self._well(step)
        step.progress(1, 40, unit="step")
        os.kill(os.getpid(), signal.SIGKILL)


    def _well(self, step):
        for done in range(1, 301):
            time.sleep(0.05)
            if done * self.options.evaluations // 100 != (done - 1) * self.options.evaluations // 100:
                time.sleep(2)
                step.metric("heldout_loss", 1.0, at=done)
            step.progress(done, 300, unit="step")


@hookimpl
def inhouse_trainers():
    kinds = {"consumes": ("model/hf", "text/chat"), "produces": ("model/hf",)}
    yield TrainerSpec(name="odd", summary="Goes wrong", factory="odd:Odd", options=Options, **kinds)
'''


@pytest.fixture
def children(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trials find the fakes and ``odd`` as installed plugins; returns where their temporary folders lie."""
    site, temporary = tmp_path / "site", tmp_path / "temporary"
    shutil.copytree(target, site)
    write_distribution(site, "odd", {"odd": "odd"}, {"odd": ODD})
    temporary.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{TESTS}")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.syspath_prepend(str(site))
    return temporary


@pytest.fixture
def desk(tmp_path: Path, done: Path) -> Path:
    """A folder of its own in which the recipe of fakes was run."""
    return Path(shutil.copytree(done, tmp_path / "desk"))


def files(folder: Path) -> list[str]:
    return sorted(str(each) for each in folder.rglob("*"))


def by_name(plan: dict) -> dict[str, dict]:
    return {each["name"]: each for each in plan["steps"]}


# --- from ticks to seconds --------------------------------------------------------------------------


def ticks(*pairs: tuple[float, float], total: float = 10, evaluated: tuple[float, ...] = ()) -> list[Tick]:
    return [Tick(at, done, total, "step", evaluated=done in evaluated) for at, done in pairs]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (ticks((6, 1), (8, 2), (10, 3)), 24),  # set-up and first unit 6, nine others of 2
        (ticks((5, 0), (9, 1), (11, 2)), 27),  # told before each unit: 5 + 4 of warming up, nine of 2
        (ticks((3, 1), (4, 2), (7, 3)), 21),  # units of unlike length: their mean
        (ticks((3, 1), (5, 5)), 7.5),  # some calls were not kept
        (ticks((1, 0.1), (2, 0.2), total=1), 10),  # shares instead of counts
        (ticks((1, 1), (2, 2), (4, 4), total=4), 4),  # all done
        (ticks((4, 1)), None),
        (ticks((4, 0), (5, 0)), None),
        (ticks((1, 1), (2, 2), total=0), None),
        ([], None),
    ],
)
def test_seconds_of_ticks(told: list[Tick], seconds: float | None) -> None:
    assert seconds_of(told) == (None if seconds is None else pytest.approx(seconds))


def test_a_heldout_evaluation_counts_as_often_as_it_comes() -> None:
    told = ticks((2, 1), (3, 2), (4, 3), (10, 4), (11, 5), total=20, evaluated=(4,))
    assert seconds_of(told) == pytest.approx(11 + 15 + 4 * 5)  # every fourth of 20, one of five is done
    each = ticks((2, 1), (5, 2), (8, 3), total=5, evaluated=(1, 2, 3))
    assert seconds_of(each) == pytest.approx(14)  # after every unit: part of the unit


def test_seconds_as_people_read_them() -> None:
    assert [human_seconds(each) for each in (0.04, 9.96, 59.4, 59.6, 464, 3600, 7265)] == [
        "0.0 s", "10 s", "59 s", "1 min 0 s", "7 min 44 s", "1 h 0 min", "2 h 1 min",
    ]  # fmt: skip


# --- trials -----------------------------------------------------------------------------------------


def test_a_trainer_is_tried_and_the_store_is_not_touched(desk: Path, children: Path) -> None:
    before = files(desk)
    changed = ["--set", "finetune.tune.rate=2", "--set", "finetune.tune.pause=0.05"]
    plan = out(["plan", "--json", *changed], desk)
    row = by_name(plan)["finetune"]
    assert not row["cached"]
    assert row["note"] == "measured to its end"
    assert row["seconds"] >= 3 * 0.05  # a pause is never shorter
    assert row["memory_bytes"] > 1 << 20
    assert plan["seconds"] == row["seconds"]
    assert by_name(plan)["quantize"]["seconds"] is None
    assert files(desk) == before
    assert files(children) == []


def test_a_long_trainer_is_told_from_its_first_units(
    desk: Path, children: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inhouse_commands.estimate.BUDGET", 0.5)
    log = desk / "units.log"
    log.touch()
    sets = [
        "finetune.tune.rate=2",
        "finetune.tune.units=1000",
        "finetune.tune.pause=0.1",
        "finetune.tune.log=units.log",
    ]
    plan = out(["plan", "--json", *(part for each in sets for part in ("--set", each))], desk)
    row = by_name(plan)["finetune"]
    assert row["note"].startswith("told from ")
    assert row["note"].endswith(" of 1000 units")
    assert row["seconds"] >= 1000 * 0.1  # a pause is never shorter
    assert 2 <= len(log.read_text().splitlines()) < 1000
    assert files(children) == []


def test_heldout_evaluations_that_come_late_are_measured_apart(
    desk: Path, children: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inhouse_commands.estimate.BUDGET", 0.3)
    found = {}
    for evaluations in (0, 2):
        kernel, plan = odd_plan(desk, "well", f"odd.evaluations = {evaluations}\n")
        step = next(each for each in plan.steps if each.name == "finetune")
        trials = Trials(plan, kernel.store, kernel.cached(plan), recipe=str(desk / "recipe.toml"))
        found[evaluations] = trials.estimate(step)
    assert "held-out" not in found[0].note
    assert found[2].note.endswith(" of 300 steps and one of 6 held-out evaluations")
    assert (found[2].seconds or 0) >= 300 * 0.05 + 6 * 1  # a pause is never shorter; what the first step took varies
    assert files(children) == []


def test_cached_steps_say_what_they_took(desk: Path) -> None:
    rows = by_name(out(["plan", "--json"], desk))
    record = {each["name"]: each for each in out(["report", "--json"], desk)["steps"]}
    for name, row in rows.items():
        assert row["seconds"] == row["seconds_last"] == record[name]["made_seconds"]
        assert row["memory_bytes"] == record[name]["peak_memory_bytes"]
    assert out(["plan"], desk).splitlines()[0].split() == list(command.HEADER)


def test_no_trial(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "estimate", lambda *_: pytest.fail("tried"))
    text = out(["plan", "--no-trial", "--set", "finetune.tune.rate=2"], desk)
    (line,) = (line for line in text.splitlines() if line.startswith("finetune"))
    assert line.split()[4:8] == ["will", "run", "-", "-"]
    assert "time: " not in text


def test_inputs_that_are_not_made_yet(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    text = out(["plan", "--set", "seed=8"], tmp_path)
    (line,) = (line for line in text.splitlines() if line.startswith("finetune "))
    assert line.split()[4:8] == ["will", "run", "?", "?"]
    assert (
        "finetune: its inputs are not made yet; to measure it: inhouse run recipe.toml --until data --set seed=8"
        in text
    )
    assert not (tmp_path / ".inhouse").exists()


def test_the_base_stands_in_for_the_pretrained_model(desk: Path, children: Path) -> None:
    table = '[pretrain]\nuse = "tune"\n[pretrain.tune]\nunits = 2\n\n'
    (desk / "recipe.toml").write_text(RECIPE.replace("[finetune]\n", f"{table}[finetune]\n"))
    rows = by_name(out(["plan", "--json"], desk))
    assert rows["pretrain"]["note"] == "measured to its end"
    assert rows["finetune"]["note"] == "what pretrain takes stood in for what it will make; measured to its end"
    assert rows["finetune"]["seconds"] > 0


# --- what goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "code", "error", "noted"),
    [
        ("data", 2, "chat.jsonl:3: row 3 is no chat [odd 1.0 (odd)]\n  try: mend it", "the trial failed"),
        ("killed", 1, "the trial was killed (SIGKILL, as when memory runs out) after 1 of 40 steps",
         "the trial was killed (SIGKILL, as when memory runs out) after 1 of 40 steps"),
        ("network", 2, "something tried to reach 192.0.2.1, and the recipe allows no network", "the trial failed"),
        ("exit", 1, "the trial ended with exit code 9 (a line that is no reading)", "the trial ended with exit code 9"),
    ],
)  # fmt: skip
def test_a_trial_that_fails(desk: Path, children: Path, how: str, code: int, error: str, noted: str) -> None:
    text = RECIPE.replace('use = "tune"\n', f'use = "odd"\nodd.how = "{how}"\n')
    (desk / "recipe.toml").write_text(text)
    made = here(["plan"], desk, {"odd": "odd"})
    assert made.returncode == code, made.stderr
    assert error in made.stderr
    assert "Traceback" not in made.stderr
    (line,) = (line for line in made.stdout.splitlines() if line.startswith("finetune "))
    assert line.split()[4:7] == ["fails", "?", "?"]
    assert noted in made.stdout
    assert "disk: " in made.stdout
    if how == "killed":
        assert "try: a smaller batch_size: --set finetune.odd.batch_size=4" in made.stderr
    assert files(children) == []


def test_an_exception_of_the_backend(desk: Path, children: Path) -> None:
    made = here(["plan", "--set", "finetune.tune.rate=2", "--set", "finetune.tune.fail_at=0"], desk)
    assert made.returncode == 1
    assert "error: step finetune failed: ValueError: no gradient at 0" in made.stderr
    assert "Traceback" not in made.stderr


def odd_plan(desk: Path, how: str, more: str = "") -> tuple[Kernel, Plan]:
    (desk / "recipe.toml").write_text(RECIPE.replace('use = "tune"\n', f'use = "odd"\nodd.how = "{how}"\n{more}'))
    kernel = Kernel(desk / ".inhouse", registry=registry({"odd": "odd"}))
    return kernel, kernel.plan(Recipe.load(desk / "recipe.toml", environment={}))


def test_a_trainer_that_never_says_how_far_it_is(desk: Path, children: Path) -> None:
    kernel, plan = odd_plan(desk, "mute")
    step = next(each for each in plan.steps if each.name == "finetune")
    trials = Trials(plan, kernel.store, kernel.cached(plan), recipe=str(desk / "recipe.toml"), limit=0.2)
    estimate = trials.estimate(step)
    assert (estimate.seconds, estimate.memory_bytes, estimate.error) == (None, None, None)
    assert estimate.note == "the trial did not do two units of work in 0 s"
    assert files(children) == []


def test_more_memory_than_there_is(desk: Path, children: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inhouse_commands.plan.available_bytes", lambda: 1000)
    made = here(["plan", "--set", "finetune.tune.rate=2"], desk)
    assert made.returncode == 0, made.stderr
    (line,) = (line for line in made.stdout.splitlines() if line.startswith("warning: "))
    assert line.startswith("warning: finetune needs ")
    assert "1 kB are free; try a smaller base model" in line


def test_it_says_which_implied_step_is_left_out(desk: Path, children: Path) -> None:
    (desk / "recipe.toml").write_text(RECIPE.replace("gates = false", ""))
    made = here(["plan", "--no-trial"], desk)
    assert made.returncode == 0, made.stderr
    assert "warning: left out: no evaluator named 'gates' is installed (installed: count" in made.stdout


def test_the_option_to_make_smaller_is_one_of_the_backend(desk: Path, children: Path) -> None:
    _, plan = odd_plan(desk, "killed")
    step = next(each for each in plan.steps if each.name == "finetune")
    assert smaller(plan, step) == "a smaller batch_size: --set finetune.odd.batch_size=4"


def test_available_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:   1000 kB\n")
    assert available_bytes(tmp_path / "meminfo") == 1000 * 1024
    assert available_bytes(tmp_path / "gone") is None


def test_interrupt_ends_the_trial_and_leaves_nothing(desk: Path, children: Path) -> None:
    log = desk / "units.log"
    log.touch()
    sets = [
        "finetune.tune.rate=2",
        "finetune.tune.units=100000",
        "finetune.tune.pause=0.05",
        "finetune.tune.log=units.log",
    ]
    # SIGINT is ignored in what was started from a background job, these tests for example
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    arguments = [str(CONSOLE), "plan", *(part for each in sets for part in ("--set", each))]
    command = [sys.executable, "-c", heeding, *arguments]
    variables = {**environment(), "PYTHONPATH": os.environ["PYTHONPATH"]}
    running = subprocess.Popen(command, cwd=desk, env=variables, stderr=subprocess.PIPE, text=True)
    while not log.read_text() and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "Traceback" not in told
    assert files(children) == []
    worker = int(log.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
