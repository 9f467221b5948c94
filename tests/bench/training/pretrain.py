"""Pre-training from scratch, 6 layers, width 512, 8k vocabulary, against transformers' Trainer and a plain loop."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .measure import FOLDER, OURS, Answer, Child, Goal, Group, Settings, same_versions, speed, within
from .texts import make_corpus, make_weights

PLACE = FOLDER / "pretrain"
VOCABULARY, CONTEXT, BATCH, SEED = 8192, 256, 16, 7
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
OURS_NAME, TRAINER, LOOP = "ours", "transformers Trainer", "plain fp32 loop"
JOB: dict[str, Any] = {
    "model": str(PLACE / "model"), "tokens": str(PLACE / "checkpoints" / "corpus"), "context": CONTEXT,
    "batch_size": BATCH, "learning_rate": 1e-3, "seed": SEED,
}  # fmt: skip


def prepare(settings: Settings) -> dict[str, Child]:
    """Data, and the check that all compute the same first loss."""
    make_corpus(PLACE, settings.text, vocabulary=VOCABULARY, context=CONTEXT)
    make_weights(PLACE / "model", SEED, vocabulary=VOCABULARY, context=CONTEXT)
    job = {**JOB, "warmup": settings.warmup, "steps": settings.steps}
    found = {name: Child(OURS, module, job) for name, module in MODULES.items()}
    first: dict[str, Answer] = {name: child.having(warmup=0, steps=1).run() for name, child in found.items()}
    print(f"  {same_versions(first)}; ours computes in {first[OURS_NAME]['compute_dtype']}")
    for name in (TRAINER, LOOP):
        dtype = first[OURS_NAME]["compute_dtype"]
        within(
            f"first loss of ours and of {name}",
            first[OURS_NAME]["losses"][0],
            first[name]["losses"][0],
            TOLERANCE[dtype],
        )
    return found


def tell(settings: Settings, found: Mapping[str, Child], answers: Mapping[str, Sequence[Answer]]) -> None:
    """What our steps reach of the measured rate."""
    rates = Child(OURS, "gemm", {}).run()
    rate = statistics.median(each["operations"] / each["seconds"] for each in answers[OURS_NAME])
    print(
        f"  ours: {rate / 1e9:.0f} GFLOP/s, that is {rate / rates['bfloat16']:.0%} of the rate of bf16 products and"
        f" {rate / rates['float32']:.0%} of fp32's (bf16 {rates['bfloat16'] / 1e9:.0f}, fp32 {rates['float32'] / 1e9:.0f})"
    )
    if settings.profile:
        print(f"\n{OURS_NAME}: by operator\n{found[OURS_NAME].having(profile=True).run()['table']}")


MODULES = {OURS_NAME: "ours_pretrain", TRAINER: "trainer_pretrain", LOOP: "loop_pretrain"}
WORK = "pre-training, 6 layers, width 512, 8k vocabulary"
GROUP = Group(
    name="pretrain",
    steps=6,
    quick_steps=2,
    prepare=prepare,
    goals=(
        Goal(WORK, TRAINER, OURS_NAME, TRAINER, speed, "tok/s", 4),
        Goal(WORK, LOOP, OURS_NAME, LOOP, speed, "tok/s", 4),
    ),
    tell=tell,
)
