"""Bundles that the fakes' recipe made with the real packager, and how to change what they say of themselves."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.console import here
from support.fakes import RECIPE, write_recipe

MODULES = {"inhouse-bundle": "inhouse_bundle"}
FILED = RECIPE.replace('tools = ["upper"]', 'tools = ["upper"]\n[tools.upper]\nfile = "words.txt"').replace(
    'use = "box"', 'use = "folder"'
)
"""The fakes' recipe with a tool that has a file, and the real packager."""


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return here(arguments, cwd, MODULES)


def make(folder: Path, *sets: str, chat: str | None = None) -> Path:
    """The bundle of a run in ``folder`` with a home of its own."""
    write_recipe(folder, FILED)
    if chat is not None:
        (folder / "chat.jsonl").write_text(chat)
    (folder / "words.txt").write_text("words")
    layers = [word for each in sets for word in ("--set", each)]
    made = run(["run", "-q", *layers], folder)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def told(arguments: list[str], cwd: Path, code: int) -> Any:
    done = run([*arguments, "--json"], cwd)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the lineage as one who knows how: with its own digest right."""
    path = bundle / "lineage.json"
    data = json.loads(path.read_text())
    change(data)
    data["own_digest"] = "0" * 64
    text = json.dumps(data, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(text.replace(f'"own_digest": "{"0" * 64}"', f'"own_digest": "{digest}"'))
