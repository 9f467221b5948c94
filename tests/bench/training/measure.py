"""Measuring in turns: child processes, what they answer, and the rows that come of it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrs import evolve, field, frozen

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "bench"
OURS = ROOT / ".venv" / "bin" / "python"
PEERS = ROOT / ".venv-bench" / "bin" / "python"
TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
"""What is pre-trained on, unless the command line names another text."""

OUTSIDE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HOME": str(FOLDER / "huggingface"),
    "LLAMA_INDEX_CACHE_DIR": str(FOLDER / "llama-index"),
    "LANGSMITH_TRACING": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
"""The environment of measured processes: nothing is downloaded, told to anybody, or kept outside ``FOLDER``."""

Answer = Mapping[str, Any]


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


@frozen
class Settings:
    """What was asked for. ``steps`` are timed, after ``warmup`` steps that are not.

    A peer that would take longer than ``seconds`` in all is given fewer steps. ``text`` is what is pre-trained on.
    """

    repeats: int
    steps: int
    warmup: int
    seconds: float
    profile: bool
    text: Path = TEXT


@frozen
class Row:
    """A line of the table. ``ours`` and ``peer`` are medians in ``unit``, ``ratio`` the median of the ratios."""

    work: str
    against: str
    ours: float
    peer: float
    ratio: float
    unit: str
    goal: str
    met: bool


@frozen
class Child:
    """A process that measures: the interpreter, a module of ``package``, and the job that it gets as JSON.

    ``environment`` is laid over :data:`OUTSIDE`.
    """

    python: Path
    module: str
    job: Mapping[str, Any]
    package: str = "training"
    environment: Mapping[str, str] = field(factory=dict)

    def having(self, **changes: Any) -> Child:
        """The same with another job."""
        return evolve(self, job={**self.job, **changes})

    def affordable(self, step: float, seconds: float) -> Child:
        """With fewer steps (one at least) where one takes ``step`` seconds and all would take over ``seconds``."""
        room = int(seconds / step)
        if self.job["warmup"] + self.job["steps"] <= room:
            return self
        # where one step alone takes all the time, what it does for the first time counts for nothing
        warmup = min(self.job["warmup"], max(1, room // 4)) if room > 1 else 0
        return self.having(warmup=warmup, steps=max(1, room - warmup))

    def run(self) -> Answer:
        """Runs it to its end. Raises ``BenchError`` with the end of its output when it fails."""
        done = subprocess.run(
            [str(self.python), "-m", f"{self.package}.{self.module}", json.dumps(self.job)],
            cwd=ROOT / "tests" / "bench",
            env={**os.environ, **OUTSIDE, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{self.module} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


@frozen
class Goal:
    """``figure`` of child ``ours`` over that of child ``peer`` has to be at least (or at most) ``times``."""

    work: str
    against: str
    ours: str
    peer: str
    figure: Callable[[Answer], float]
    unit: str
    times: float
    at_least: bool = True

    def row(self, answers: Mapping[str, Sequence[Answer]]) -> Row:
        """Medians over the repeats; the ratio is taken within each repeat."""
        ours = [self.figure(answer) for answer in answers[self.ours]]
        peer = [self.figure(answer) for answer in answers[self.peer]]
        ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
        goal = f"{'>=' if self.at_least else '<='} {self.times:g} times"
        met = ratio >= self.times if self.at_least else ratio <= self.times
        return Row(
            self.work, self.against, statistics.median(ours), statistics.median(peer), ratio, self.unit, goal, met
        )


class Works(Protocol):
    """Works that are measured together, with what holds unless the command line says otherwise."""

    @property
    def steps(self) -> int:
        """Timed steps."""
        ...

    @property
    def quick_steps(self) -> int:
        """The same with ``--quick``."""
        ...

    @property
    def warmup(self) -> int:
        """Steps before them that are not timed."""
        ...

    @property
    def repeats(self) -> int:
        """Turns."""
        ...

    def rows(self, settings: Settings) -> list[Row]:
        """Measures. Raises ``BenchError``."""
        ...


@frozen
class Group:
    """Works that are measured together.

    ``prepare`` makes models and data, checks that both sides compute the same (raises ``BenchError`` when
    they do not) and gives the children by name, in the order of their turns; goals against a peer that is not
    among them are left out. ``tell`` prints what else the answers say. ``steps`` and ``quick_steps`` are the
    timed steps unless the command line says otherwise.
    """

    name: str
    steps: int
    quick_steps: int
    prepare: Callable[[Settings], Mapping[str, Child]]
    goals: Sequence[Goal]
    tell: Callable[[Settings, Mapping[str, Child], Mapping[str, Sequence[Answer]]], None]
    warmup: int = 2
    repeats: int = 5

    def rows(self, settings: Settings) -> list[Row]:
        """Prepares, measures in turns and tells."""
        children = self.prepare(settings)
        answers: dict[str, list[Answer]] = {name: [] for name in children}
        for repeat in range(1, settings.repeats + 1):
            for name, child in children.items():
                started = time.monotonic()
                answer = child.run()
                answers[name].append(answer)
                print(
                    f"  {repeat}/{settings.repeats} {name + ':':40} {speed(answer):7.1f} tokens/s over"
                    f" {child.job['steps']} steps after {child.job['warmup']}, {megabytes(answer):.0f} MB,"
                    f" {time.monotonic() - started:.0f} s in all",
                    flush=True,
                )
        self.tell(settings, children, answers)
        return [goal.row(answers) for goal in self.goals if goal.peer in answers]


def speed(answer: Answer) -> float:
    """Trained tokens a second."""
    return float(answer["tokens"] / answer["seconds"])


def megabytes(answer: Answer) -> float:
    """Peak resident memory in MB."""
    return float(answer["peak_bytes"] / 1e6)


def same_versions(answers: Mapping[str, Answer]) -> str:
    """All versions in one line. Raises ``BenchError`` where two children run on different ones."""
    found: dict[str, str] = {}
    for name, answer in answers.items():
        for library, version in answer["versions"].items():
            if found.setdefault(library, version) != version:
                raise BenchError(f"{name} runs on {library} {version}, others on {found[library]}: remove .venv-bench")
    return ", ".join(f"{library} {version}" for library, version in found.items())


def within(what: str, ours: float, theirs: float, tolerance: float) -> None:
    """Says how far two figures lie apart. Raises ``BenchError`` where it is more than ``tolerance``, a ratio."""
    apart = abs(ours - theirs) / abs(theirs)
    print(f"  {what}: {ours:.4f} and {theirs:.4f}, {apart:.1e} apart (at most {tolerance:g})", flush=True)
    if not apart <= tolerance:
        raise BenchError(f"the two sides do not compute the same, so there is nothing to compare: {what}")
