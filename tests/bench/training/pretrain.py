"""Pre-training from scratch, 6 layers, width 512, 8k vocabulary, against transformers' Trainer and a plain loop."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from inhouse_testing.recording import RecordingStep
from inhouse_torch.corpus import prepare as prepare_corpus
from inhouse_torch.shape import by_depth, fresh_model

from .measure import FOLDER, OURS, ROOT, Answer, BenchError, Child, Goal, Group, Settings, same_versions, speed, within

TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
PLACE = FOLDER / "pretrain"
VOCABULARY, CONTEXT, BATCH, SEED = 8192, 256, 16, 7
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
OURS_NAME, TRAINER, LOOP = "ours", "transformers Trainer", "plain fp32 loop"
JOB: dict[str, Any] = {
    "model": str(PLACE / "model"), "tokens": str(PLACE / "checkpoints" / "corpus"), "context": CONTEXT,
    "batch_size": BATCH, "learning_rate": 1e-3, "seed": SEED,
}  # fmt: skip


def make_data() -> None:
    """A tokenizer, the corpus in its tokens, and one set of random weights for all; made once."""
    if (PLACE / "model" / "model.safetensors").exists():
        return
    if not TEXT.exists():
        raise BenchError(f"the corpus is missing: {TEXT}")
    step: Any = RecordingStep.at(PLACE)
    (PLACE / "corpus.jsonl").write_text(_row(TEXT.read_text(encoding="utf-8")))
    corpus: Any = SimpleNamespace(path=PLACE)
    tokens = prepare_corpus(step, corpus, None, vocabulary=VOCABULARY, context=CONTEXT, heldout=0.1)
    torch.manual_seed(SEED)
    fresh_model(by_depth(6, vocabulary=VOCABULARY, context=CONTEXT), bos=1, eos=2, pad=0).save_pretrained(
        PLACE / "model"
    )
    print(f"  {tokens.train.count} tokens to learn from")


def _row(text: str) -> str:
    return json.dumps({"id": "text", "title": "", "text": text}) + "\n"


def prepare(settings: Settings) -> dict[str, Child]:
    """Data, and the check that all compute the same first loss."""
    make_data()
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
    steps=10,
    quick_steps=2,
    prepare=prepare,
    goals=(
        Goal(WORK, TRAINER, OURS_NAME, TRAINER, speed, "tok/s", 4),
        Goal(WORK, LOOP, OURS_NAME, LOOP, speed, "tok/s", 4),
    ),
    tell=tell,
)
