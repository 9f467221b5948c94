"""Seconds to one held-out loss, from nothing but the text: ours against transformers' Trainer and a plain fp32 loop.

All have the same tokenizer (byte-level BPE as the trainer `scratch` makes it), number of parameters and windows in
the same order. Peers begin as nanoGPT does; ours as the trainer ships (layers add nothing), and once more with
`first_weights = "bigrams"`: embedding and head are a bigram model of the same text, which is counted and factorised on
its clock. In each turn the peers train the same number of tokens to the end of their own schedules; the target is the
lowest held-out loss that one of them reaches. Ours plans as many tokens, and stops where it reaches it.

The held-out loss is measured on the same windows by the same code, at the same cadence in tokens, and no one's
clock runs meanwhile; the clock does run from the first step on, whatever it prepares. A peer that does not
reach the target counts with all its time, so the ratio against it is the least that it can be.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from .measure import FOLDER, Answer, BenchError, Child, Row, Settings, same_versions, within
from .measure import OURS as PYTHON
from .texts import make_corpus, make_weights

PLACE = FOLDER / "loss"
VOCABULARY, CONTEXT = 2048, 256
"""A megabyte is too little for a vocabulary of 8k: most of it would be words that occur once or twice."""
EVERY, HELDOUT_WINDOWS = 4096, 16
"""Tokens between two held-out losses, and the windows that one is measured on."""

PEER_BATCH = 4
RATE = 1e-3
"""Of both peers. Held-out loss at the end of 128 steps, seed 0: Trainer 5.234 at 1e-3, 5.383 at 3e-3. At the end of 56
steps: loop 5.577 and 5.725, Trainer 5.623 and 5.583. A step of 1,024 tokens is near nanoGPT's 768 on a CPU."""
OURS_BATCH, OURS_SHARE = 8, 1.0
"""Windows in a step, and how long the plan is as a share of the peers' tokens. After the same 49,152 tokens 8
windows a step came to 5.424, 16 to 5.661 (from random weights): fewer steps learn less, smaller ones pay
more for Muon. From zero, after 32,768 tokens of a plan that is over then 5.372, of one for 81,920 tokens 5.297."""
OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours from bigrams": {"first_weights": "bigrams"}}
"""What differs from the trainer as it ships (Muon, rate 3e-3, linear decay, growing sequences).
After 32,768 of 49,152 tokens a rate of 3e-3 was at 5.585, 6e-3 at 5.615 (at the end 5.424 and 5.359)."""

CHECK_STEPS, CHECK_RATE = 2, 1e-3
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
ALIKE = 0.05
"""How far apart the peers may end: both are AdamW on the same windows, only their schedules differ."""
GOAL = 5.0
WORK = "seconds to one held-out loss"
TRAINER, LOOP = "transformers Trainer", "plain fp32 loop"


def peers(job: Mapping[str, Any]) -> dict[str, Child]:
    """Both with their own schedules."""
    loop = {"learning_rate": RATE, "weight_decay": 0.1, "rising": 0.05, "decay": "cosine"}
    trainer = {"learning_rate": RATE, "arguments": {}}
    return {
        LOOP: Child(PYTHON, "loop_loss", {**job, **loop}),
        TRAINER: Child(PYTHON, "trainer_loss", {**job, **trainer}),
    }


def ours(job: Mapping[str, Any], target: float) -> dict[str, Child]:
    """The trainer `scratch` with those options, up to ``target``; its plan is a share of the peers' tokens."""
    steps = max(1, round(OURS_SHARE * job["steps"] * PEER_BATCH / OURS_BATCH))
    own = {"model": job["own_model"], "steps": steps, "batch_size": OURS_BATCH, "target": target}
    return {name: Child(PYTHON, "ours_loss", {**job, **own, "options": options}) for name, options in OURS.items()}


def check(job: Mapping[str, Any]) -> None:
    """Equal numerics: all with the same AdamW for a few steps come to the same held-out loss.

    Raises ``BenchError`` where they do not, or where parameters or versions differ.
    """
    short = {**job, "steps": CHECK_STEPS, "learning_rate": CHECK_RATE}
    plain = {"first_weights": "random", "optimizer": "adamw", "learning_rate": CHECK_RATE, "warmup": 0.0,
             "decay": "constant", "weight_decay": 0.0, "grow_context": 0.0}  # fmt: skip
    same = {"lr_scheduler_type": "constant", "adam_beta2": 0.95}
    answers: dict[str, Answer] = {
        TRAINER: Child(PYTHON, "trainer_loss", {**short, "arguments": same}).run(),
        LOOP: Child(PYTHON, "loop_loss", {**short, "weight_decay": 0.0, "rising": 0.0, "decay": "constant"}).run(),
    }
    mine = Child(PYTHON, "ours_loss", {**short, "options": plain, "fixed": True}).run()
    dtype, parameters = mine["compute_dtype"], mine["parameters"]
    versions = same_versions({**answers, "ours": mine})
    print(f"  {versions}; {parameters} parameters; ours computes in {dtype}", flush=True)
    for name, answer in answers.items():
        if answer["parameters"] != parameters:
            raise BenchError(f"{name} has {answer['parameters']} parameters, ours {parameters}")
        what = f"held-out loss of ours and of {name} after {CHECK_STEPS} steps of the same AdamW"
        within(what, final(mine), final(answer), TOLERANCE[dtype])


def final(answer: Answer) -> float:
    """The last held-out loss."""
    return float(answer["points"][-1][2])


def lowest(answer: Answer) -> float:
    """The lowest held-out loss."""
    return min(float(loss) for _, _, loss in answer["points"])


def reached(answer: Answer, target: float) -> tuple[int, float] | None:
    """Tokens and seconds up to the first held-out loss of ``target`` or less."""
    return next(((tokens, seconds) for tokens, seconds, loss in answer["points"] if loss <= target), None)


@frozen
class Turn:
    """Seconds to the target of one seed; of a peer all that it took, of ours infinity, where it was not reached."""

    ours: Mapping[str, float]
    peers: Mapping[str, float]


def turn(job: Mapping[str, Any], label: str) -> Turn:
    """The peers, then ours. Raises ``BenchError`` where the peers do not learn alike."""
    theirs = {name: child.run() for name, child in peers(job).items()}
    within(f"{label} lowest held-out loss of {LOOP} and of {TRAINER}", *map(lowest, theirs.values()), ALIKE)
    target = min(map(lowest, theirs.values()))
    mine = {name: child.run() for name, child in ours(job, target).items()}
    for name, answer in {**theirs, **mine}.items():
        found = reached(answer, target)
        told = f"{found[1]:.1f} s, {found[0]} tokens" if found else f"not in {answer['seconds']:.1f} s"
        print(
            f"  {label} {name + ':':22} to {target:.3f} {told}; {answer['tokens'] / answer['seconds']:.0f} tokens/s,"
            f" lowest {lowest(answer):.3f}, {answer['peak_bytes'] / 1e6:.0f} MB",
            flush=True,
        )
    return Turn(
        {name: seconds(answer, target, float("inf")) for name, answer in mine.items()},
        {name: seconds(answer, target, float(answer["seconds"])) for name, answer in theirs.items()},
    )


def seconds(answer: Answer, target: float, otherwise: float) -> float:
    """Up to ``target``, or ``otherwise`` where it was not reached."""
    found = reached(answer, target)
    return found[1] if found else otherwise


@frozen
class Race:
    """See :class:`training.measure.Works`; ``steps`` are the peers' optimizer steps, all of them timed."""

    steps: int = 128
    quick_steps: int = 20
    warmup: int = 0
    repeats: int = 5

    def rows(self, settings: Settings) -> list[Row]:
        """One turn for each seed from 0 on."""
        corpus = make_corpus(PLACE, settings.text, vocabulary=VOCABULARY, context=CONTEXT)
        turns = []
        for seed in range(settings.repeats):
            job = _job(corpus, seed, settings.steps)
            if not seed:
                check(job)
            turns.append(turn(job, f"{seed + 1}/{settings.repeats}"))
        return [_row(own, name, turns) for own in turns[0].ours for name in turns[0].peers]


def _job(corpus: Path, seed: int, steps: int) -> dict[str, Any]:
    model, own = PLACE / f"model-{seed}", PLACE / f"own-{seed}"
    make_weights(model, seed, vocabulary=VOCABULARY, context=CONTEXT)
    make_weights(own, seed, vocabulary=VOCABULARY, context=CONTEXT, as_gpt2=False)
    return {
        "model": str(model), "own_model": str(own), "tokens": str(corpus), "context": CONTEXT,
        "batch_size": PEER_BATCH, "seed": seed, "warmup": 0, "steps": steps, "every": EVERY, "heldout_windows": HELDOUT_WINDOWS,
    }  # fmt: skip


def _row(own: str, name: str, turns: list[Turn]) -> Row:
    pairs = [(each.ours[own], each.peers[name]) for each in turns]
    mine, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    return Row(f"{WORK}: {own}", name, mine, theirs, ratio, "s", f">= {GOAL:g} times", ratio >= GOAL)


GROUP = Race()
