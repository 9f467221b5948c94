"""Embedding passages of about 120 tokens, against sentence-transformers as it comes and set by us, on 2 threads.

Every side loads the same folder and embeds the same passages, cut from real text to 64 to 184 tokens. As it comes is
``SentenceTransformer(folder).encode(texts)``: fp32, batches of 32. Set by us is the same in bf16, with the texts sorted
by length (encode does that too) and the fastest of a few batch sizes. Loading is on no clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from training.measure import Answer, BenchError, Child, Goal, Row, megabytes, same_versions

from .rows import told, under
from .sides import HERE, encoder, in_turns, ours, peer
from .texts import Cutter, articles, lengths

OURS, PEER, TUNED = "ours", "sentence-transformers", "the same, bf16, sorted"
BATCHES = (8, 16, 32, 64)
TRIED = 256
"""Texts on which the batch sizes are tried."""

SHORTEST, LONGEST = 64, 184
ALIKE, SAME = 0.999, 0.99
"""Least cosine of two vectors of one passage: the goal, and what passes for the same vectors at all."""


def measure(quick: bool) -> list[Row]:
    """Raises ``BenchError`` where both sides' vectors are not the same."""
    count, repeats = (100, 1) if quick else (2000, 3)
    HERE.mkdir(parents=True, exist_ok=True)
    pieces = Cutter(encoder(), articles()).pieces(count, SHORTEST, LONGEST)
    print(f"  {count} passages of {lengths(pieces)}", flush=True)
    children = _children([each.text for each in pieces], quick)
    first = {name: child.run() for name, child in children.items()}  # which fills the caches, too
    threads = {answer["threads"] for answer in first.values()}
    print(f"  {same_versions(first)}; {' and '.join(map(str, threads))} threads")
    cosines = _check(children)
    answers = in_turns(repeats, children, _said)
    return _rows(count, cosines, answers)


def _children(texts: list[str], quick: bool) -> dict[str, Child]:
    path = HERE / "passages.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    job: dict[str, Any] = {"texts": str(path), "warmup": 64}
    theirs = {**job, "model": str(encoder()), "dtype": "", "batch_size": 0, "sort": False}
    tuned = {**theirs, "dtype": "bfloat16", "sort": True, "vectors": str(HERE / "tuned.npy")}
    tuned["batch_size"] = fastest(peer("st_embed", **tuned), texts[:TRIED], (32,) if quick else BATCHES)
    return {
        OURS: ours("ours_embed", **job, vectors=str(HERE / "ours.npy")),
        PEER: peer("st_embed", **theirs, vectors=str(HERE / "theirs.npy")),
        TUNED: peer("st_embed", **tuned),
    }


def fastest(child: Child, texts: Sequence[str], sizes: Sequence[int]) -> int:
    """The batch size with which ``child`` embeds ``texts`` in the least time, of two tries each; one needs no try."""
    if len(sizes) == 1:
        return sizes[0]
    path = HERE / "tried.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    seconds: dict[int, float] = {}
    for size in [*sizes, *sizes]:
        answer = child.having(texts=str(path), batch_size=size).run()
        seconds[size] = min(seconds.get(size, answer["seconds"]), answer["seconds"])
    chosen = min(sizes, key=lambda size: seconds[size])
    said = ", ".join(f"{size}: {len(texts) / seconds[size]:.0f}/s" for size in sizes)
    print(f"  batch sizes of sentence-transformers in bf16: {said}; {chosen} is taken", flush=True)
    return chosen


def _check(children: Mapping[str, Child]) -> dict[str, float]:
    """The least cosine of ours, and of theirs in bf16, to theirs in fp32. Raises ``BenchError`` for other vectors."""
    exact = np.load(children[PEER].job["vectors"])
    found = {}
    for name in (OURS, TUNED):
        cosines = cosine(np.load(Path(children[name].job["vectors"])), exact)
        found[name] = float(cosines.min())
        print(f"  {name}: cosine to {PEER} in fp32 {cosines.min():.6f} at least, {cosines.mean():.6f} in the mean")
    if found[OURS] < SAME:
        raise BenchError("the two sides' vectors are not the same, so there is nothing to compare")
    return found


def cosine(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of the vectors of each row, (n,). Raises ``BenchError`` where one side has more of them."""
    if ours.shape != theirs.shape:
        raise BenchError(f"one side gave vectors of shape {ours.shape}, the other of {theirs.shape}")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    found: npt.NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def _speed(answer: Answer) -> float:
    return float(answer["texts"] / answer["seconds"])


def _said(answer: Answer) -> str:
    return f"{_speed(answer):7.1f} passages/s, {megabytes(answer):.0f} MB"


def _rows(count: int, cosines: Mapping[str, float], answers: Mapping[str, Sequence[Answer]]) -> list[Row]:
    work = f"embedding {count} passages of 120 tokens"
    memory = {name: median(map(megabytes, each)) for name, each in answers.items()}
    return [
        Goal(work, PEER, OURS, PEER, _speed, "/s", 3).row(answers),
        Goal(work, TUNED, OURS, TUNED, _speed, "/s", 1.3).row(answers),
        under(
            "the same: 1 - cosine to its fp32 vectors, most",
            "its own in bf16",
            1 - cosines[OURS],
            1 - cosines[TUNED],
            round(1 - ALIKE, 6),
        ),
        told("the same: peak memory", PEER, memory[OURS], memory[PEER], unit="MB"),
    ]
