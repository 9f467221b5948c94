"""The command line, as users and scripts see it: exit codes, one clear line, JSON, and what it imports."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

from inhouse.cli import COMMANDS, OWN, cli
from support.console import clear, fails, here, out
from support.distributions import CONSOLE, environment, inhouse, write_distribution
from support.fakes import RECIPE, write_recipe

ALLOWED = {"attr", "attrs", "cattr", "cattrs", "click", "pluggy", "structlog", "inhouse"}
"""The five, by the names they are imported under."""


# --- what is shown ----------------------------------------------------------------------------------


def test_plugins(done: Path) -> None:
    listed = out(["plugins", "--json"], done)
    assert {"kind": "quantizer", "name": "shrink"}.items() <= next(
        each for each in listed["backends"] if each["name"] == "shrink"
    ).items()
    assert "shrink" in out(["plugins"], done)


def test_run_prints_its_record_as_json(done: Path) -> None:
    record = out(["run", "--json"], done)
    assert all(each["cached"] for each in record["steps"])


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


def test_help_lists_the_commands_as_their_plugins_declare_them(tmp_path: Path) -> None:
    listed = out(["plugins", "--json"], tmp_path)["backends"]
    declared = {each["name"]: each["summary"] for each in listed if each["kind"] == "command"}
    assert {**{name: COMMANDS[name] for name in OWN}, **declared} == COMMANDS


ACME = """
import click
from inhouse import CommandSpec, hookimpl

@click.command()
def upload():
    click.echo("uploaded")

{more}

@hookimpl
def inhouse_commands():
    yield CommandSpec(name="upload", summary="To our server", factory="acme_upload:{name}")
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("upload", 0, ""),
        ("gone", 3, "acme_upload:gone does not import"),
        ("number", 3, "acme_upload:number is no click command"),
    ],
)
def test_a_third_party_brings_a_command(tmp_path: Path, name: str, code: int, said: str) -> None:
    text = ACME.format(name=name, more="number = 3")
    write_distribution(tmp_path / "site", "acme", {"acme": "acme_upload"}, {"acme_upload": text})
    made = inhouse(["upload"], cwd=tmp_path, target=tmp_path / "site")
    if code:
        clear(made, code, said)
    else:
        assert (made.returncode, made.stdout) == (0, "uploaded\n"), made.stderr


def test_of_two_plugins_with_one_command_the_name_says_which(tmp_path: Path) -> None:
    for name in ("acme", "bolt"):
        text = ACME.format(name="upload", more="").replace('"uploaded"', f'"to {name}"')
        write_distribution(
            tmp_path / "site", name, {name: f"{name}_upload"}, {f"{name}_upload": text.replace("acme_", f"{name}_")}
        )
    clear(inhouse(["upload"], cwd=tmp_path, target=tmp_path / "site"), 2, "command 'upload' comes from several plugins")
    made = inhouse(["bolt:upload"], cwd=tmp_path, target=tmp_path / "site")
    assert (made.returncode, made.stdout) == (0, "to bolt\n"), made.stderr


def test_a_first_party_command_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.console.COMMANDS", {})
    made = here(["ask", "hello"], tmp_path)
    assert made.returncode == 2
    assert "no command named 'ask' is installed" in made.stderr
    assert "try: pip install inhouse-answer" in made.stderr


def test_every_command_has_help(tmp_path: Path) -> None:
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.help, name


def test_version(tmp_path: Path) -> None:
    assert distribution("inhouse").version in inhouse(["--version"], cwd=tmp_path).stdout
