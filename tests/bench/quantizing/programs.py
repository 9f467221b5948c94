"""Programs as their user starts them, what they take, and llama.cpp's own two (contrib/dev/bench-llama.sh)."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from training.measure import ROOT, Answer, BenchError, Goal, Row

LLAMA = ROOT / "build" / "llama.cpp"
CONVERT = LLAMA / "source" / "convert_hf_to_gguf.py"
QUANTIZE = LLAMA / "bin" / "llama-quantize"

Work = Callable[[], Answer]
"""Does a work once and gives its "seconds" and "peak_bytes"."""


def run(command: Sequence[str | Path]) -> Answer:
    """Runs a program to its end: its wall "seconds" and "peak_bytes", the largest resident memory of one process.

    Raises ``BenchError`` with the end of its output when it fails.
    """
    words = [str(word) for word in command]
    outside = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=ROOT / "tests" / "bench",
            env={**os.environ, **outside},
        )
        _, status, usage = os.wait4(child.pid, 0)  # as wait(), with what it used
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            tail = said.read().decode(errors="replace")[-3000:]
            raise BenchError(f"{' '.join(words)} ended with {child.returncode}:\n{tail}")
    scale = 1 if os.uname().sysname == "Darwin" else 1024
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * scale}


def one_after_the_other(answers: Sequence[Answer]) -> Answer:
    """What several programs take that run one after the other."""
    return {
        "seconds": sum(each["seconds"] for each in answers),
        "peak_bytes": max(each["peak_bytes"] for each in answers),
    }


def in_turns(repeats: int, works: Mapping[str, Work]) -> dict[str, list[Answer]]:
    """Does every work ``repeats`` times, one after the other in each turn, and tells what each took."""
    answers: dict[str, list[Answer]] = {name: [] for name in works}
    for repeat in range(1, repeats + 1):
        for name, work in works.items():
            answer = work()
            answers[name].append(answer)
            print(
                f"    {repeat}/{repeats} {name + ':':32} {answer['seconds']:7.2f} s,"
                f" {answer['peak_bytes'] / 1e6:.0f} MB at most",
                flush=True,
            )
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
