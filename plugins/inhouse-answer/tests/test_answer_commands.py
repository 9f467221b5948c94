"""``inhouse ask`` and ``inhouse chat``."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.console import out
from support.distributions import CONSOLE, environment


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
