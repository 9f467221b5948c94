"""The main job on the real base model, on fewer dialogues and tasks, run as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DESK = ROOT / "contrib" / "recipes" / "service-desk"
INHOUSE = [sys.executable, "-m", "inhouse"]
TASKS = 8


def sealed() -> list[str]:
    """A prefix that takes the network away, where the system lets an ordinary user do that."""
    prefix = ["unshare", "--map-root-user", "--net"]
    works = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if works and works.returncode == 0 else []


class Job:
    """The service desk in small: settings, and how to call the command line on a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, count in (("tasks.jsonl", TASKS), ("heldout.jsonl", 4)):
            lines = (DESK / name).read_text(encoding="utf-8").splitlines()[:count]
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.settings = {
            "data.jsonl.limit": 16,
            "data.jsonl.heldout": folder / "heldout.jsonl",
            "finetune.lora.batch_size": 2,
            "finetune.lora.epochs": 1,
            "finetune.lora.checkpoint_seconds": 0.01,
            "evaluate.tasks.tasks": folder / "tasks.jsonl",
            "evaluate.tasks.heldout_limit": 2,
            "gates.gates.accept": '["survival", "task"]',  # of eight steps of training and eight tasks
            "agent.react.max_steps": 2,
            "agent.react.max_tokens": 40,
        }

    def arguments(self, **more: Any) -> list[str]:
        """``inhouse run`` with the settings in small."""
        settings = {**self.settings, **{key.replace("__", "."): value for key, value in more.items()}}
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return ["run", str(DESK), *sets]

    def call(self, arguments: Sequence[str], home: Path, *, prefix: Sequence[str] = ()) -> str:
        """Runs ``inhouse`` and returns its standard output; fails the test with its standard error."""
        environment = {**os.environ, "INHOUSE_HOME": str(home)}
        done = subprocess.run(
            [*prefix, *INHOUSE, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def report(self, home: Path) -> Any:
        """``inhouse report --json``."""
        return json.loads(self.call(["report", "--json"], home))


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job in small."""
    return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="session")
def home(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the whole job was run once, without any network."""
    made = tmp_path_factory.mktemp("home")
    job.call(job.arguments(), made, prefix=sealed())
    return made


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    """A new home that has only the named steps' artifacts of the first one."""

    def copy(steps: Sequence[str]) -> Path:
        made = tmp_path / "home"
        for manifest in (home / "artifacts").glob("*/manifest.json"):
            if json.loads(manifest.read_text())["step"] in steps:
                shutil.copytree(manifest.parent, made / "artifacts" / manifest.parent.name)
        return made

    return copy
