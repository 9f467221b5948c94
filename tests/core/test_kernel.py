"""Runs: done once, found again, resumed after a kill, cancelled, failed; and the record of each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from inhouse import Bus, InhouseError, Kernel, Recipe, SourceSpec, hookimpl, journal, runs
from inhouse.codec import EventCodec
from inhouse.errors import ArtifactError, Interrupted, RecipeError, StepError
from inhouse.events import (
    ArtifactCommitted,
    Event,
    MetricMeasured,
    Noticed,
    PluginFailed,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFailed,
    StepFinished,
    StepProgressed,
    StepStarted,
    UnknownEvent,
)
from inhouse.values import Artifact
from support.distributions import TESTS, environment, registry
from support.fakes import RECIPE, Box, write_recipe

Module = Callable[..., str]
STEPS = ["base", "data", "finetune", "quantize", "knowledge", "evaluate", "bundle"]


def load(recipe: Path, *sets: str) -> Recipe:
    return Recipe.load(recipe, set=sets, environment={})


def listener() -> tuple[Bus, list[Event]]:
    bus, heard = Bus(strict=True), []
    bus.subscribe(Event, heard.append)
    return bus, heard


def of(kind: type[Any], heard: list[Event]) -> list[Any]:
    return [each for each in heard if isinstance(each, kind)]


def test_a_run_from_recipe_to_bundle(kernel: Kernel, recipe: Path) -> None:
    bus, heard = listener()
    run = kernel.run(load(recipe), bus=bus)
    assert [step.name for step in run.record.steps] == STEPS
    assert (run["quantize"].path / "model.txt").read_text() == "q4(model+[0, 1, 2]@0.5)"
    assert run["finetune"].kind == "model/hf"
    assert run["finetune"].meta == {"loss": pytest.approx(1 / 3)}
    assert run.record.bundle == str(kernel.home / "bundles" / "fake")
    assert heard[0] == RunStarted("fake", tuple(STEPS))
    assert isinstance(heard[-1], RunFinished)
    assert [(each.step, each.cached) for each in of(StepFinished, heard)] == [(name, False) for name in STEPS]
    assert [each.position for each in of(StepStarted, heard)] == list(range(1, 8))
    assert len(of(ArtifactCommitted, heard)) == 9
    assert [each.value for each in of(MetricMeasured, heard)] == [1.0, 1 / 2, 1 / 3]
    with pytest.raises(KeyError):
        run["nowhere"]


def test_an_evaluator_sees_every_model_and_what_came_before(kernel: Kernel, recipe: Path) -> None:
    run = kernel.run(load(recipe))
    report = json.loads((run["evaluate"].path / "report.json").read_text())
    assert report["answers"] == {
        "base:model/hf": "model: hello",
        "finetune:model/hf": "model+[0, 1, 2]@0.5: hello",
        "quantize:model/fake": "q4(model+[0, 1, 2]@0.5): hello",
    }
    assert report["history"] == 5


def test_a_second_run_finds_every_step(kernel: Kernel, recipe: Path) -> None:
    first = kernel.run(load(recipe))
    bus, heard = listener()
    second = kernel.run(load(recipe), bus=bus)
    assert all(step.cached for step in second.record.steps)
    assert of(StepStarted, heard) == []
    assert second.products == first.products


@pytest.mark.parametrize(
    ("sets", "runs_again"),
    [
        (["quantize.shrink.type=q8"], ["quantize", "evaluate", "bundle"]),
        (["finetune.tune.rate=0.25"], ["finetune", "quantize", "evaluate", "bundle"]),
        (["finetune.tune.pause=0.001"], []),
        (["target.memory=2GiB"], ["evaluate", "bundle"]),
        (["seed=8"], STEPS),
        (["name=other"], []),
    ],
)
def test_only_what_changed_runs_again(kernel: Kernel, recipe: Path, sets: list[str], runs_again: list[str]) -> None:
    kernel.run(load(recipe))
    second = kernel.run(load(recipe, *sets))
    assert [step.name for step in second.record.steps if not step.cached] == runs_again


def test_the_contents_of_a_data_file_count_and_not_its_name(kernel: Kernel, recipe: Path) -> None:
    kernel.run(load(recipe), until="data")
    (recipe.parent / "chat.jsonl").rename(recipe.parent / "renamed.jsonl")
    renamed = load(recipe, "data.rows.chat=renamed.jsonl")
    assert all(step.cached for step in kernel.run(renamed, until="data").record.steps)
    (recipe.parent / "renamed.jsonl").write_text("{}\n")
    assert [step.cached for step in kernel.run(renamed, until="data").record.steps] == [True, False]


def test_a_run_says_which_implied_step_it_does_without(kernel: Kernel, recipe: Path) -> None:
    bus, heard = listener()
    write_recipe(recipe.parent, RECIPE.replace("gates = false", ""))
    kernel.run(load(recipe), bus=bus)
    told, *_ = of(Noticed, heard)
    assert (told.step, told.level) == ("gates", "warning")
    assert told.message.startswith("left out: no evaluator named 'gates' is installed")


def test_until(kernel: Kernel, recipe: Path) -> None:
    assert [step.name for step in kernel.run(load(recipe), until="finetune").record.steps] == STEPS[:3]
    with pytest.raises(RecipeError, match="unknown step 'finetun'; did you mean 'finetune'"):
        kernel.run(load(recipe), until="finetun")


def test_artifacts_may_be_given(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.txt").write_text("mine")
    recipe = Recipe.of({"quantize": {"use": "shrink"}}, path=tmp_path / "recipe.toml")
    run = kernel.run(recipe, given={("mine", "model/hf"): Artifact("model/hf", tmp_path / "mine", "d")})
    assert (run["quantize"].path / "model.txt").read_text() == "q4(mine)"


def test_a_damaged_artifact_is_made_again_and_what_follows_is_found(kernel: Kernel, recipe: Path) -> None:
    run = kernel.run(load(recipe))
    (run["finetune"].path / "model.txt").unlink()
    again = kernel.run(load(recipe))
    assert [step.name for step in again.record.steps if not step.cached] == ["finetune"]
    assert again.products == run.products


# --- failures ---------------------------------------------------------------------------------------


def test_a_step_that_fails_leaves_a_traceback_and_goes_on_next_time(kernel: Kernel, recipe: Path) -> None:
    bus, heard = listener()
    with pytest.raises(StepError, match="step finetune failed: ValueError: no gradient at 2") as caught:
        kernel.run(load(recipe, "finetune.tune.fail_at=2"), bus=bus)
    error = caught.value
    assert (error.exit_code, error.plugin) == (1, "fakes 1.0 (tune)")
    assert 'raise ValueError(f"no gradient at {unit}")' in Path(str(error.where)).read_text()
    assert isinstance(heard[-1], RunFailed)
    assert [each.step for each in of(StepFailed, heard)] == ["finetune"]
    record = runs.load_record(runs.last_run(kernel.home))
    assert record.error is not None
    assert "no gradient at 2" in record.error
    assert [step.name for step in record.steps] == ["base", "data"]
    bus, heard = listener()
    kernel.run(load(recipe), bus=bus)
    (started,) = [each for each in of(StepStarted, heard) if each.step == "finetune"]
    assert started.resumed
    assert [each.at for each in of(MetricMeasured, heard)] == [2]


def source(work: Callable[[Any, Any], None]) -> dict[str, Any]:
    @hookimpl
    def inhouse_sources() -> Iterator[SourceSpec]:
        yield SourceSpec(name="made", summary="", factory="made_source:Made", produces="model/hf")

    made = type("Made", (), {"__init__": lambda self, options: None, "produce": work})
    return {"Made": made, "inhouse_sources": inhouse_sources}


def only(tmp_path: Path, module: Module, work: Callable[[Any, Any], None]) -> tuple[Kernel, Recipe]:
    """A recipe of one step that does ``work``."""
    kernel = Kernel(tmp_path / "home", registry=registry({"made": module("made_source", **source(work))}))
    return kernel, Recipe.of({"base": {"use": "made"}}, path=tmp_path / "recipe.toml")


def write_nothing(self: Any, step: Any) -> None: ...


def note_no_json(self: Any, step: Any) -> None:
    step.note(loss=float("nan"))


def no_disk(self: Any, step: Any) -> None:
    raise OSError(28, "No space left on device")


def typed(self: Any, step: Any) -> None:
    raise RecipeError("rank is larger than the matrix", where="recipe.toml:3")


def wrong_slot(self: Any, step: Any) -> None:
    step.service("embedder")


@pytest.mark.parametrize(
    ("work", "error", "said"),
    [
        (write_nothing, ArtifactError, "base: step wrote nothing for model/hf [made 1.0 (made)]"),
        (note_no_json, StepError, "step base failed: ValueError: Out of range float values"),
        (no_disk, StepError, "step base failed: OSError: [Errno 28] No space left on device"),
        (typed, RecipeError, "recipe.toml:3: rank is larger than the matrix [made 1.0 (made)]"),
        (wrong_slot, RecipeError, "step base has no slot 'embedder' (its spec declares: none)"),
    ],
)
def test_what_goes_wrong_in_a_step_names_the_plugin(
    tmp_path: Path, module: Module, work: Any, error: type[InhouseError], said: str
) -> None:
    kernel, recipe = only(tmp_path, module, work)
    bus, heard = listener()
    with pytest.raises(error) as caught:
        kernel.run(recipe, bus=bus)
    assert said in str(caught.value).replace("made 1.0]", "made 1.0 (made)]")
    assert [each.step for each in of(StepFailed, heard)] == ["base"]
    assert kernel.store.all() == []


def test_a_backend_without_its_method_is_at_fault(tmp_path: Path, module: Module) -> None:
    members = source(write_nothing)
    del members["Made"].produce
    kernel = Kernel(tmp_path / "home", registry=registry({"made": module("made_source", **members)}))
    with pytest.raises(StepError, match=r"produce.*\[made 1\.0 \(made\)\]"):
        kernel.run(Recipe.of({"base": {"use": "made"}}, path=tmp_path / "recipe.toml"))


def test_plugins_that_failed_are_told_on_the_bus(tmp_path: Path, recipe: Path, module: Module) -> None:
    @hookimpl
    def inhouse_step(step: Any) -> Iterator[None]:
        raise ValueError("no tracker")
        yield

    broken = {"broken": "no_such_module_anywhere", "tracker": module("tracker", inhouse_step=inhouse_step)}
    bus, heard = listener()
    Kernel(tmp_path / "home", registry=registry(broken)).run(load(recipe), until="base", bus=bus)
    assert of(PluginFailed, heard) == [
        PluginFailed("broken 1.0", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        PluginFailed("tracker 1.0", "inhouse_step: ValueError: no tracker"),
    ]


def test_a_step_wrapper_is_given_the_step(tmp_path: Path, recipe: Path, module: Module) -> None:
    seen: list[tuple[str, bool]] = []

    @hookimpl
    def inhouse_step(step: Any) -> Iterator[None]:
        seen.append((step.name, any(step.output.iterdir())))
        yield
        seen.append((step.name, any(step.output.iterdir())))

    made = registry({"tracker": module("tracker", inhouse_step=inhouse_step)})
    Kernel(tmp_path / "home", registry=made).run(load(recipe), until="base")
    assert seen == [("base", False), ("base", True)]


# --- stopping ---------------------------------------------------------------------------------------


def test_cancel_stops_after_the_unit_and_the_next_run_goes_on(kernel: Kernel, recipe: Path) -> None:
    cancel, (bus, heard) = threading.Event(), listener()
    bus.subscribe(MetricMeasured, lambda event: cancel.set() if event.at == 1 else None)
    with pytest.raises(Interrupted) as caught:
        kernel.run(load(recipe), cancel=cancel, bus=bus)
    assert caught.value.exit_code == 130
    assert isinstance(heard[-1], RunFailed)
    run = kernel.run(load(recipe))
    assert (run["finetune"].path / "model.txt").read_text() == "model+[0, 1, 2]@0.5"


def test_cancel_stops_between_steps_too(kernel: Kernel, recipe: Path) -> None:
    cancel, (bus, _) = threading.Event(), listener()
    bus.subscribe(StepFinished, lambda _: cancel.set())
    with pytest.raises(Interrupted):
        kernel.run(load(recipe), cancel=cancel, bus=bus)
    assert len(kernel.store.all()) == 1


def test_an_interrupt_in_a_step_is_an_interrupted_run(tmp_path: Path, module: Module) -> None:
    def work(self: Any, step: Any) -> None:
        raise KeyboardInterrupt

    kernel, recipe = only(tmp_path, module, work)
    with pytest.raises(Interrupted, match="finished steps are kept"):
        kernel.run(recipe)
    assert runs.load_record(runs.last_run(kernel.home)).error == "KeyboardInterrupt"


def lines(path: Path) -> list[list[str]]:
    return [each.split() for each in path.read_text().splitlines()] if path.exists() else []


def child(recipe: Path, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "support.run_fakes", str(recipe), str(home)]
    return subprocess.Popen(command, cwd=TESTS, env=environment(), stdout=subprocess.PIPE, text=True)


def slow(recipe: Path, log: Path, units: int, pause: float) -> Path:
    text = recipe.read_text().replace("units = 3", f'units = {units}\npause = {pause}\nlog = "{log}"')
    log.touch()
    recipe.write_text(text)
    return recipe


def test_killed_in_the_middle_of_a_step_the_next_run_ends_with_the_same_bytes(tmp_path: Path, recipe: Path) -> None:
    log = tmp_path / "log"
    slow(recipe, log, units=8, pause=0.05)
    for kill_after in (2, 5):
        killed = child(recipe, tmp_path / "killed")
        while len(lines(log)) < kill_after:
            assert killed.poll() is None
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    resumed = child(recipe, tmp_path / "killed")
    digests, _ = resumed.communicate()
    assert [int(unit) for _, unit in lines(log)] == list(range(8))  # no unit twice, none left out
    assert len({pid for pid, _ in lines(log)}) == 3
    whole = child(recipe, tmp_path / "whole")
    assert whole.communicate()[0] == digests
    assert len(digests.splitlines()) == 9
    assert not any((tmp_path / "killed" / "work").iterdir())


def test_two_runs_of_one_recipe_do_the_work_once(tmp_path: Path, recipe: Path) -> None:
    log = tmp_path / "log"
    slow(recipe, log, units=6, pause=0.1)
    both = [child(recipe, tmp_path / "home") for _ in range(2)]
    outputs = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert sorted(int(unit) for _, unit in lines(log)) == list(range(6))
    assert len({pid for pid, _ in lines(log)}) == 1


def test_waiting_for_another_run_is_told_and_can_be_cancelled(
    kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.run(load(recipe), until="data")
    (key,) = _keys_of_next_step(kernel, recipe, monkeypatch)
    cancel, (bus, heard) = threading.Event(), listener()
    bus.subscribe(Noticed, lambda _: cancel.set())
    with kernel.store.lock(key), pytest.raises(Interrupted):
        kernel.run(load(recipe), cancel=cancel, bus=bus)
    assert [each.step for each in of(Noticed, heard)] == ["finetune"]


def _keys_of_next_step(kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys: list[str] = []

    def begin(key: str, kinds: Any) -> Any:
        keys.append(key)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(kernel.store, "begin", begin)
        kernel.run(load(recipe))
    return keys


# --- records and events -----------------------------------------------------------------------------


def test_the_record(kernel: Kernel, recipe: Path) -> None:
    run = kernel.run(load(recipe))
    record = runs.load_record(runs.last_run(kernel.home))
    assert record == run.record
    assert runs.last_run(kernel.home, record.id) == kernel.home / "runs" / record.id
    assert [step.name for step in record.steps] == STEPS
    assert record.peak_memory_bytes > 0


def test_no_run_yet_and_no_such_run(kernel: Kernel, recipe: Path) -> None:
    with pytest.raises(RecipeError, match="no run yet"):
        runs.last_run(kernel.home)
    kernel.run(load(recipe), until="base")
    with pytest.raises(RecipeError, match="no run 2020"):
        runs.last_run(kernel.home, "2020")


def test_the_journal_has_every_event_and_replays(kernel: Kernel, recipe: Path) -> None:
    bus, heard = listener()
    run = kernel.run(load(recipe), bus=bus)
    path = kernel.home / "runs" / run.record.id / "events.jsonl"
    envelopes = list(journal.read(path, kernel.codec))
    assert [each.event for each in envelopes] == heard
    assert {each.run for each in envelopes} == {run.record.id}
    assert {each.process for each in envelopes} == {os.getpid()}
    assert [each.sequence for each in envelopes] == list(range(1, len(heard) + 1))
    bus, again = listener()
    assert journal.replay(path, bus, kernel.codec) == len(heard)
    assert again == heard
    assert not of(UnknownEvent, again)


def test_a_journal_is_read_without_the_plugin_that_wrote_it(kernel: Kernel, recipe: Path) -> None:
    run = kernel.run(load(recipe), until="base")
    path = kernel.home / "runs" / run.record.id / "events.jsonl"
    known = list(journal.read(path, kernel.codec))
    blank = EventCodec([])
    unknown = list(journal.read(path, blank))
    assert all(isinstance(each.event, UnknownEvent) for each in unknown)
    written = [json.loads(json.dumps(journal.encode(each, blank))) for each in unknown]
    assert [journal.decode(each, kernel.codec) for each in written] == known


def test_a_cut_last_line_is_left_out_and_a_damaged_one_is_told(kernel: Kernel, recipe: Path) -> None:
    run = kernel.run(load(recipe), until="base")
    path = kernel.home / "runs" / run.record.id / "events.jsonl"
    text = path.read_text()
    path.write_text(text + text.splitlines()[0][:40])
    assert len(list(journal.read(path, kernel.codec))) == len(text.splitlines())
    for damaged in ("{}\n", "[1]\n", '{"event": 3}\n', "no json\n"):
        path.write_text(damaged + text)
        with pytest.raises(ArtifactError):
            list(journal.read(path, kernel.codec))


def test_progress_comes_at_most_twenty_times_a_second_and_the_last_one_always(tmp_path: Path, module: Module) -> None:
    def work(self: Any, step: Any) -> None:
        for _ in step.track(range(10_000), unit="row"):
            pass
        (step.output / "a").write_text("a")

    kernel, recipe = only(tmp_path, module, work)
    bus, heard = listener()
    kernel.run(recipe, bus=bus)
    told = of(StepProgressed, heard)
    assert len(told) < 1000
    assert (told[0].done, told[-1].done, told[-1].total, told[-1].unit) == (0, 10_000, 10_000, "row")


def test_a_step_sees_what_it_made_before(tmp_path: Path, module: Module) -> None:
    def work(self: Any, step: Any) -> None:
        seen = [(each.path / "a").read_text() for each in step.earlier()]
        (step.output / "a").write_text(f"{step.seed} after {', '.join(seen) or 'none'}")

    kernel, recipe = only(tmp_path, module, work)
    runs = [evolve(recipe, seed=1), evolve(recipe, seed=2)]
    runs.append(Recipe.of({"steps": {"other": {"stage": "source", "use": "made"}}}, path=recipe.path))
    made = [next(iter(kernel.run(each).products.values())) for each in runs]
    assert [(each.path / "a").read_text() for each in made] == ["1 after none", "2 after 1 after none", "0 after none"]


def test_a_log_line_in_a_step_is_bound_to_it(tmp_path: Path, module: Module) -> None:
    import structlog

    bound: list[dict[str, Any]] = []

    def work(self: Any, step: Any) -> None:
        bound.append(structlog.contextvars.get_contextvars())
        (step.output / "a").write_text("a")

    kernel, recipe = only(tmp_path, module, work)
    run = kernel.run(recipe)
    assert bound == [{"run": run.record.id, "step": "base"}]
    assert structlog.contextvars.get_contextvars() == {}


# --- the bundle's copy ------------------------------------------------------------------------------


def test_a_bundle_is_deployed_by_its_packager_also_from_the_store(kernel: Kernel, recipe: Path) -> None:
    bundle = Path(str(kernel.run(load(recipe)).record.bundle))
    assert bundle == kernel.home / "bundles" / "fake"
    shutil.rmtree(bundle)
    bus, heard = listener()
    assert kernel.run(load(recipe), bus=bus).record.bundle == str(bundle)
    assert (bundle / "model" / "model.txt").exists()
    assert [each.message for each in of(Noticed, heard)] == ["deployed"]


def test_a_bundle_without_a_packager_that_deploys_stays_in_the_store(
    kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Box, "deploy")
    run = kernel.run(load(recipe))
    assert run.record.bundle == str(run["bundle"].path)


def test_a_packager_that_cannot_deploy_fails_the_run(
    kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Box, "deploy", full)
    with pytest.raises(StepError, match="step bundle failed: OSError: disk full"):
        kernel.run(load(recipe))


def test_the_home_is_given_or_in_the_environment_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INHOUSE_HOME", str(tmp_path / "there"))
    assert Kernel().home == tmp_path / "there"
    assert Kernel("given").home == tmp_path / "given"
    monkeypatch.delenv("INHOUSE_HOME")
    assert Kernel().home == tmp_path / ".inhouse"
