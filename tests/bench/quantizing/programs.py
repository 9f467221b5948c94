"""Programs as their user starts them, what they take, and llama.cpp's own two (contrib/dev/bench-llama.sh)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from training.measure import ROOT, Answer, BenchError, Goal, Row

LLAMA = ROOT / "build" / "llama.cpp"
CONVERT = LLAMA / "source" / "convert_hf_to_gguf.py"
QUANTIZE = LLAMA / "bin" / "llama-quantize"

Work = Callable[[], float]
"""Does a work once and gives the seconds that it took."""


def run(command: Sequence[str | Path]) -> float:
    """Runs a program to its end; the wall seconds from its start. Raises ``BenchError`` with the end of its output."""
    words = [str(word) for word in command]
    outside = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT / "tests" / "bench",
        env={**os.environ, **outside},
        check=False,
    )
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-3000:]
        raise BenchError(f"{' '.join(words)} ended with {done.returncode}:\n{tail}")
    return time.perf_counter() - started


def in_turns(repeats: int, works: Mapping[str, Work]) -> dict[str, list[Answer]]:
    """Does every work ``repeats`` times, one after the other in each turn, and tells what each took."""
    answers: dict[str, list[Answer]] = {name: [] for name in works}
    for repeat in range(1, repeats + 1):
        for name, work in works.items():
            seconds = work()
            answers[name].append({"seconds": seconds})
            print(f"    {repeat}/{repeats} {name + ':':32} {seconds:7.2f} s", flush=True)
    return answers


def faster(work: str, against: str, times: float, answers: Mapping[str, Sequence[Answer]], *, ours: str) -> Row:
    """A row of seconds: those of ``ours`` have to be at most ``times`` those of the work called ``against``."""
    goal = Goal(work, against, ours, against, lambda answer: float(answer["seconds"]), "s", times, at_least=False)
    return goal.row(answers)


def threads() -> str:
    """How many a program is told to take: one for each core that this process may use."""
    return str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def need_llama() -> None:
    """Raises ``BenchError`` where llama.cpp's own programs are not built."""
    if not (CONVERT.is_file() and QUANTIZE.is_file()):
        raise BenchError("llama.cpp's own programs are missing: run contrib/dev/bench-llama.sh, or make bench-quantize")
