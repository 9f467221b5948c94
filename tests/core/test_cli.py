"""The command line, as users and scripts see it: exit codes, one clear line, JSON, and what it imports."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import structlog

from inhouse.cli import COMMANDS, cli, main
from support.distributions import CONSOLE, environment, inhouse, install_fakes, registry, write_distribution
from support.fakes import RECIPE, write_recipe

ALLOWED = {"attr", "attrs", "cattr", "cattrs", "click", "pluggy", "structlog", "inhouse"}
"""The five, by the names they are imported under."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which the fakes are an installed plugin."""
    folder = tmp_path_factory.mktemp("site")
    install_fakes(folder)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Path:
    """A folder in which the recipe of fakes was run."""
    folder = tmp_path_factory.mktemp("done")
    write_recipe(folder)
    made = inhouse(["run", "-q"], cwd=folder, target=target)
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{folder}/.inhouse/bundles/fake\n"
    return folder


def here(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process over the fakes alone, unsealed: a process for each call costs a second."""
    printed, told = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(told):
        patch.chdir(cwd)
        patch.setattr("sys.argv", ["inhouse", *arguments])
        patch.setattr("inhouse.kernel.Registry", registry)
        patch.setattr("inhouse.sealed.seal", lambda: None)
        for command in ("ask", "chat", "step"):
            patch.setattr(f"inhouse.cli.{command}.seal", lambda: None)
        with pytest.raises(SystemExit) as ended:
            main()
    signal.signal(signal.SIGINT, before)
    structlog.reset_defaults()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), printed.getvalue(), told.getvalue())


def out(arguments: list[str], cwd: Path) -> Any:
    """A command's standard output; JSON is parsed."""
    made = here(arguments, cwd)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout) if "--json" in arguments else made.stdout


def fails(arguments: list[str], cwd: Path, code: int, said: str) -> None:
    """One clear message, no traceback, and the exit code."""
    clear(here(arguments, cwd), code, said)


def clear(made: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    assert made.returncode == code, made.stderr
    assert made.stdout == ""
    message = [line for line in made.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1, made.stderr
    assert said in message[0]
    assert "Traceback" not in made.stderr


# --- what is shown ----------------------------------------------------------------------------------


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
    assert "bundle: " in out(["report"], done)


def test_config(done: Path) -> None:
    values = out(["config", "--set", "finetune.tune.units=9", "--json"], done)
    assert values["finetune.tune.units"] == {"value": 9, "from": "--set finetune.tune.units=9"}
    assert values["finetune.tune.rate"] == {"value": 0.5, "from": f"{done}/recipe.toml:19"}
    assert values["finetune.tune.pause"] == {"value": 0.0, "from": "default"}
    assert values["knowledge.vector_store"] == {"value": "pile", "from": "default"}


def test_plugins(done: Path) -> None:
    listed = out(["plugins", "--json"], done)
    assert {"kind": "quantizer", "name": "shrink"}.items() <= next(
        each for each in listed["backends"] if each["name"] == "shrink"
    ).items()
    assert "shrink" in out(["plugins"], done)


def test_artifacts(done: Path) -> None:
    assert len(out(["artifacts", "--json"], done)) == 7
    assert "quantize" in out(["artifacts", "--verify"], done)


def test_events_are_shown_and_replayed(done: Path) -> None:
    events = out(["events", "--json"], done)
    assert events[0]["event"]["type"] == "RunStarted"
    assert len(out(["events"], done).splitlines()) == len(events)
    out(["events", "--replay"], done)


def test_ask(done: Path) -> None:
    answer = out(["ask", "where is it?", "--json"], done)
    assert answer["text"] == "q4(model+[0, 1, 2]@0.5): where is it?"
    assert answer["outcome"] == "answered"
    assert out(["ask", "x", "--bundle", ".inhouse/bundles/fake"], done).startswith("q4(")


def test_chat(done: Path, target: Path) -> None:
    made = subprocess.run(
        [str(CONSOLE), "chat"], cwd=done, env=environment(target), input="one\ntwo\n\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("q4(model") == 2


def test_doctor(tmp_path: Path) -> None:
    told = out(["doctor", "--json"], tmp_path)
    assert told["machine"]["cores"] >= 1
    assert told["failed"] == []
    assert {"kind": "source", "name": "blank", "ok": True, "reason": ""} in told["backends"]
    assert {"kind": "source", "name": "rows", "ok": True, "reason": ""} in told["backends"]


def test_doctor_finds_a_broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_before = registry
    monkeypatch.setitem(here.__globals__, "registry", lambda: made_before({"broken": "nowhere_at_all"}))
    made = here(["doctor"], tmp_path)
    assert made.returncode == 3
    assert "failed: broken 1.0: ModuleNotFoundError" in made.stdout


def test_run_prints_the_report_as_json(done: Path) -> None:
    report = out(["run", "--json"], done)
    assert all(each["cached"] for each in report["steps"])


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
    from inhouse import Recipe

    recipe = Recipe.load(tmp_path / "recipe.toml", environment={})
    assert [step.name for step in recipe.steps] == ["base", "data", "finetune", "quantize", "knowledge", "bundle"]
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


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_missing_recipe(tmp_path: Path) -> None:
    fails(["run", "gone.toml"], tmp_path, 2, "gone.toml: no such recipe")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('seed = 7', 'seed = ', "recipe.toml:2: is no TOML"),
        ('seed = 7', 'sed = 7', "recipe.toml:2: sed: unknown key 'sed'; did you mean 'seed'?"),
        ('rate = 0.5', 'rte = 0.5', "recipe.toml:19: finetune.tune.rte: unknown key 'rte'; did you mean 'rate'?"),
        ('use = "shrink"', 'use = "acme"', "recipe.toml:23: quantize.use: no quantizer named 'acme' is installed"),
        ('chat = "chat.jsonl"', 'chat = "gone.jsonl"', "recipe.toml:14: data.rows.chat: no such file: "),
        ('context = 64', 'context = 5000', "recipe.toml:6: target.context: context 5000 is longer than the model's 1024"),
        ('use = "blank"', 'use = "blank"\nblank.bytes = 4000000000000000', "GB on disk and"),
        ('use = "blank"', 'use = "blank"\nblank.refuse = "no compiler"', "recipe.toml:9: base.use: no compiler"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_exit_2(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in RECIPE
    write_recipe(tmp_path, RECIPE.replace(old, new))
    fails(["run"], tmp_path, 2, said)


def test_a_step_that_fails_is_exit_1(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    fails(["run", "--set", "finetune.tune.fail_at=1"], tmp_path, 1, "step finetune failed: ValueError")


def test_a_plugin_at_fault_is_exit_3(tmp_path: Path) -> None:
    write_distribution(
        tmp_path / "site",
        "acme",
        {"acme": "acme_plugin"},
        {
            "acme_plugin": "from inhouse import SourceSpec, hookimpl\n@hookimpl\ndef inhouse_sources():\n"
            "    yield SourceSpec(name='acme', summary='', factory='acme_gone:Source', produces='model/hf')\n"
        },
    )
    write_recipe(tmp_path, '[base]\nuse = "acme"\n')
    clear(
        inhouse(["run"], cwd=tmp_path, target=tmp_path / "site"),
        3,
        "acme_gone:Source does not import: ModuleNotFoundError",
    )


def test_a_run_is_sealed_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    write_distribution(
        tmp_path / "site",
        "phone",
        {"phone": "phone_home"},
        {
            "phone_home": "import socket\nfrom inhouse import SourceSpec, hookimpl\n"
            "class Source:\n    def __init__(self, options): pass\n    def produce(self, step):\n"
            "        socket.create_connection(('192.0.2.1', 9), timeout=0.1)\n"
            "@hookimpl\ndef inhouse_sources():\n"
            "    yield SourceSpec(name='phone', summary='', factory='phone_home:Source', produces='model/hf')\n"
        },
    )
    write_recipe(tmp_path, '[base]\nuse = "phone"\n')
    made = inhouse(["run"], cwd=tmp_path, target=tmp_path / "site")
    clear(made, 2, "something tried to reach 192.0.2.1, and the recipe allows no network")
    made = inhouse(["run", "--set", "run.network=true"], cwd=tmp_path, target=tmp_path / "site")
    assert made.returncode == 1  # allowed, and nobody is there
    assert "allows no network" not in made.stderr


def test_unknown_commands_and_flags_are_exit_2(tmp_path: Path) -> None:
    for arguments in (["rum"], ["run", "--fast"], ["ask"], ["step", "painter"]):
        made = here(arguments, tmp_path)
        assert (made.returncode, made.stdout) == (2, ""), arguments
        assert "Traceback" not in made.stderr


def test_before_any_run(tmp_path: Path) -> None:
    for command in (["report"], ["events"], ["ask", "hello"]):
        fails(command, tmp_path, 2, "no run yet")


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "file").touch()
    fails(["run", "--home", "file"], tmp_path, 2, "cannot be made")


def test_a_damaged_artifact_is_found_by_verify(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    here(["run", "-q"], tmp_path)
    (path,) = (tmp_path / ".inhouse" / "artifacts").glob("*/model-fake/model.txt")
    path.write_text(path.read_text().replace("q4", "q5"))
    made = here(["artifacts", "--verify"], tmp_path)
    assert made.returncode == 1
    assert "model-fake/model.txt" in made.stderr


def start(tmp_path: Path, target: Path) -> tuple[subprocess.Popen[str], Path]:
    log = tmp_path / "log"
    log.touch()
    write_recipe(tmp_path, RECIPE.replace("units = 3", f'units = 400\npause = 0.02\nlog = "{log}"'))
    run = subprocess.Popen(
        [str(CONSOLE), "run"], cwd=tmp_path, env=environment(target), stderr=subprocess.PIPE, text=True
    )
    while len(log.read_text().splitlines()) < 2:
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    return run, log


def test_ctrl_c_stops_after_the_unit_with_130(tmp_path: Path, target: Path) -> None:
    run, log = start(tmp_path, target)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert "stopping after the current unit of work" in errors
    assert "error: step finetune was stopped; finished work is kept" in errors
    assert "Traceback" not in errors
    assert len(log.read_text().splitlines()) < 400


def test_ctrl_c_twice_stops_at_once_with_130(tmp_path: Path, target: Path) -> None:
    write_recipe(tmp_path, RECIPE.replace("units = 3", "units = 3\npause = 120.0"))
    run = subprocess.Popen(
        [str(CONSOLE), "run"], cwd=tmp_path, env=environment(target), stderr=subprocess.PIPE, text=True
    )
    events = tmp_path / ".inhouse" / "runs"
    while not any('"step": "finetune"' in each.read_text() for each in events.glob("*/events.jsonl")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    told = run.stderr.readline()
    while "stopping after" not in told:
        told = run.stderr.readline()
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in errors


# --- what it imports --------------------------------------------------------------------------------


def modules(code: str, target: Path | None = None) -> set[str]:
    """Top-level modules that ``code`` loads and a bare interpreter does not."""
    show = "\nprint('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"

    def loaded(text: str) -> set[str]:
        made = subprocess.run(
            [sys.executable, "-c", "import sys\n" + text + show],
            env=environment(target), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return set(made.stdout.rpartition("---")[2].split())

    return {each for each in loaded(code) - loaded("pass") - sys.stdlib_module_names if not each.startswith("__")}


HELP = "sys.argv = ['inhouse', '--help']\nfrom inhouse.cli import main\ntry: main()\nexcept SystemExit: print('---')"


def test_the_command_line_imports_no_third_party_package_beyond_the_five() -> None:
    assert modules("import inhouse.cli") <= ALLOWED


def test_help_imports_click_and_nothing_else() -> None:
    assert modules(HELP) == {"click", "inhouse"}


def test_help_and_listing_do_not_import_backends(tmp_path: Path) -> None:
    for number in range(30):
        name = f"acme_{number}"
        write_distribution(tmp_path, name.replace("_", "-"), {name: name}, {name: "import wsgiref"})
    listed = modules(HELP, tmp_path)
    assert not [each for each in listed if each.startswith("acme_")]
    assert inhouse(["--help"], cwd=tmp_path, target=tmp_path).returncode == 0
    found = json.loads(inhouse(["plugins", "--json"], cwd=tmp_path, target=tmp_path).stdout)
    assert not [each for each in found["failed"] if each["distribution"].startswith("acme-")]


def test_every_command_has_help(tmp_path: Path) -> None:
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.help, name


def test_version(tmp_path: Path) -> None:
    assert distribution("inhouse").version in inhouse(["--version"], cwd=tmp_path).stdout
