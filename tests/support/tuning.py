"""``inhouse tune`` over the trainer whose held-out loss is a known function."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from support.console import here
from support.fakes import write_recipe
from support.learner import RECIPE

LEARNER = {"learner": "support.learner"}


def tune(folder: Path, *arguments: str, text: str = RECIPE) -> subprocess.CompletedProcess[str]:
    """The command in ``folder``, with a log of every unit of training."""
    write_recipe(folder, text)
    (folder / "log").touch()
    return here(["tune", "--set", f"finetune.learn.log={folder}/log", *arguments], folder, LEARNER)


def told(folder: Path, *arguments: str, text: str = RECIPE) -> dict[str, Any]:
    """What ``--json`` says of it."""
    made = tune(folder, *arguments, "--json", text=text)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found
