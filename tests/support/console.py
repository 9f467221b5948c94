"""The command line as users and scripts see it, over fakes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import structlog

from inhouse.cli import main
from support.distributions import registry

COMMANDS = {
    "inhouse-answer": "inhouse_answer",
    "inhouse-bench": "inhouse_bench",
    "inhouse-commands": "inhouse_commands",
    "inhouse-tune": "inhouse_tune",
    "inhouse-knowledge": "inhouse_knowledge",
}
SEALING = ("inhouse.sealed", "inhouse_answer.ask", "inhouse_answer.chat", "inhouse_commands.step")


def here(arguments: list[str], cwd: Path, modules: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in this process over the fakes and the first-party commands, unsealed.

    A process for each call would cost a second.
    """
    printed, told = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(told):
        patch.chdir(cwd)
        patch.setattr("sys.argv", ["inhouse", *arguments])
        patch.setattr("inhouse.kernel.Registry", lambda: registry({**COMMANDS, **(modules or {})}))
        for place in SEALING:
            patch.setattr(f"{place}.seal", lambda: None)
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
