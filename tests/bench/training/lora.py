"""LoRA r=16 on all linear layers of SmolLM2-135M, against TRL's SFTTrainer as it comes and tuned."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inhouse import Kernel, Recipe
from inhouse_peft.chats import encode
from inhouse_torch.folders import load_tokenizer
from inhouse_torch.schedule import batch

from .dialogues import COUNT, dialogues, write
from .measure import (
    FOLDER,
    OURS,
    PEERS,
    Answer,
    BenchError,
    Child,
    Goal,
    Group,
    Settings,
    megabytes,
    same_versions,
    speed,
    within,
)

SEED = 7
BATCH = 4
JOB: dict[str, Any] = {"seed": SEED, "batch_size": BATCH, "learning_rate": 1e-4, "rank": 16, "alpha": 32}
CHECK = "check"
AS_IT_COMES = {"train_sampling_strategy": "sequential"}
"""The order only: all else is TRL's own (bf16 autocast over fp32 weights, gradient checkpointing)."""

IN_FP32 = {**AS_IT_COMES, "bf16": False}
"""Beside it where a machine has no fast products in bf16: there TRL's own choice proves little."""

PLAIN_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
TRL_TOLERANCE = 2e-2


def tuned(dtype: str) -> dict[str, Any]:
    """TRL as a careful user of a CPU sets it: base and activations in ``dtype``, the adapter in fp32."""
    return {
        "model_init_kwargs": {"dtype": dtype},
        "bf16": False,  # no autocast: it would make the adapter's narrow products in bf16, which is slow
        "gradient_checkpointing": False,
        "train_sampling_strategy": "group_by_length",
    }


def base_model() -> Path:
    """The folder that the source `smollm2` makes; made once."""
    recipe = Recipe.of({"name": "bench", "base": {"use": "smollm2"}}, path=FOLDER / "recipe.toml")
    return Kernel(FOLDER / "home").run(recipe)["base"].path


def make_data(base: Path, count: int) -> None:
    """The first ``count`` dialogues of both kinds, and one batch of each for the checks, under ``FOLDER``/lora."""
    tokenizer = load_tokenizer(base)
    size = BATCH
    for kind, found in dialogues(tokenizer).items():
        samples = [encode(tokenizer, row, context=1024, name=f"{kind} {n}")[0] for n, row in enumerate(found[:count])]
        lengths = [len(sample.ids) for sample in samples]
        print(f"  {kind}: {len(samples)} dialogues of {min(lengths)} to {max(lengths)} tokens,"
              f" {statistics.mean(lengths):.0f} on average")  # fmt: skip
        order = [row for place in range(count // size) for row in batch(count, size, place, seed=SEED, epoch=0)]
        write(FOLDER / "lora" / kind, found[:count], samples, order)
        write(FOLDER / "lora" / f"{CHECK}-{kind}", found[:size], samples[:size], list(range(size)))


OURS_SHARED, OURS_OWN = "ours, shared prompt", "ours, no shared prompt"
DEFAULT, DEFAULT_FP32 = "TRL as it comes, shared prompt", "TRL as it comes, fp32, shared prompt"
TUNED_SHARED, TUNED_SHARED_FP32 = "TRL tuned, shared prompt", "TRL tuned, fp32, shared prompt"
TUNED_OWN, TUNED_OWN_FP32 = "TRL tuned, no shared prompt", "TRL tuned, fp32, no shared prompt"


def children(base: Path, dtype: str, settings: Settings) -> dict[str, Child]:
    """In the order of their turns; in fp32 too where ``dtype``, which this machine multiplies faster, is that."""
    shared, own = FOLDER / "lora" / "shared", FOLDER / "lora" / "own"
    job = {**JOB, "base": str(base), "warmup": settings.warmup, "steps": settings.steps}

    def ours(data: Path) -> Child:
        return Child(OURS, "ours_lora", {**job, "data": str(data)})

    def trl(data: Path, config: Mapping[str, Any]) -> Child:
        return Child(PEERS, "trl_lora", {**job, "tokens": str(data / "tokens.jsonl"), "config": config})

    found = {
        OURS_SHARED: ours(shared),
        DEFAULT: trl(shared, AS_IT_COMES),
        DEFAULT_FP32: trl(shared, IN_FP32),
        TUNED_SHARED: trl(shared, tuned("bfloat16")),
        TUNED_SHARED_FP32: trl(shared, tuned("float32")),
        OURS_OWN: ours(own),
        TUNED_OWN: trl(own, tuned("bfloat16")),
        TUNED_OWN_FP32: trl(own, tuned("float32")),
    }
    beside = () if dtype == "float32" else (DEFAULT_FP32, TUNED_SHARED_FP32, TUNED_OWN_FP32)
    return {name: child for name, child in found.items() if name not in beside}


def check(found: Mapping[str, Child]) -> dict[str, float]:
    """Equal numerics: against plain transformers, and the first loss of every child. Raises ``BenchError``.

    Gives the seconds that the one step of each child took.
    """
    first: dict[str, float] = {}
    answers: dict[str, Answer] = {}
    for name, child in found.items():
        kind = "shared" if name.endswith(", shared prompt") else "own"
        data = FOLDER / "lora" / f"{CHECK}-{kind}"
        short = child.having(warmup=0, steps=1, data=str(data), tokens=str(data / "tokens.jsonl"))
        if child.python == OURS:
            plain = Child(OURS, "plain", short.job).run()
            for pair in plain["found"]:
                what = f"{kind}, {pair['what']}: summed loss of ours and of transformers in fp32, padded"
                within(what, pair["ours"], pair["plain"], PLAIN_TOLERANCE[pair["dtype"]])
        answers[name] = short.run()
        loss = answers[name]["losses"][0]
        ours = first.setdefault(kind, loss)
        if child.python == PEERS:
            within(f"first loss of ours and of {name}", ours, loss, TRL_TOLERANCE)
    print(f"  {same_versions(answers)}", flush=True)
    return {name: float(answer["seconds"]) for name, answer in answers.items()}


def prepare(settings: Settings) -> dict[str, Child]:
    """Base, data, the format in which peers compute, and the checks."""
    if settings.warmup + settings.steps > COUNT // BATCH:
        most = COUNT // BATCH - settings.warmup
        raise BenchError(f"{COUNT} dialogues are enough for {most} steps, not for {settings.steps}")
    base = base_model()
    make_data(base, (settings.warmup + settings.steps) * BATCH)
    rates = Child(OURS, "gemm", {}).run()
    dtype = max(("bfloat16", "float32"), key=lambda name: rates[name])
    print(
        f"  products: bf16 {rates['bfloat16'] / 1e9:.0f}, fp32 {rates['float32'] / 1e9:.0f} GFLOP/s on"
        f" {rates['threads']} threads; ours chose {rates['chosen']}"
    )
    found = children(base, dtype, settings)
    seconds = check(found)
    return {
        name: child if child.python == OURS else child.affordable(seconds[name], settings.seconds)
        for name, child in found.items()
    }


def tell(settings: Settings, found: Mapping[str, Child], answers: Mapping[str, Sequence[Answer]]) -> None:
    """What our steps reach of the measured rate, whether both sides learnt alike, and the profile."""
    rates = Child(OURS, "gemm", {}).run()
    for name in (name for name, child in found.items() if child.python == OURS):
        answer = answers[name][-1]
        rate = statistics.median(each["operations"] / each["seconds"] for each in answers[name])
        print(
            f"  {name}: {rate / 1e9:.0f} GFLOP/s in {answer['compute_dtype']}, that is {rate / rates['bfloat16']:.0%}"
            f" of the rate of bf16 products and {rate / rates['float32']:.0%} of fp32's (measured now again: bf16"
            f" {rates['bfloat16'] / 1e9:.0f}, fp32 {rates['float32'] / 1e9:.0f});"
            f" {answer['computed_tokens'] / answer['tokens']:.0%} of the tokens were computed"
        )
    peer = DEFAULT_FP32 if DEFAULT_FP32 in found else DEFAULT
    pairs = list(zip(answers[OURS_SHARED][0]["losses"], answers[peer][0]["losses"], strict=False))
    means = [statistics.mean(each) for each in zip(*pairs, strict=True)]
    print(f"  mean loss of the first {len(pairs)} steps, the same batches: ours {means[0]:.4f}, {peer} {means[1]:.4f}")
    if settings.profile:
        for name in (name for name, child in found.items() if child.python == OURS):
            print(f"\n{name}: {settings.steps} steps by operator\n{found[name].having(profile=True).run()['table']}")


WORK, OWN_WORK = "LoRA r=16 all-linear, shared prompt", "LoRA r=16 all-linear, no shared prompt"
MEMORY = f"peak memory of {WORK}"
GROUP = Group(
    name="lora",
    steps=10,
    quick_steps=4,
    prepare=prepare,
    goals=(
        Goal(WORK, "TRL as it comes", OURS_SHARED, DEFAULT, speed, "tok/s", 4),
        Goal(WORK, "TRL as it comes, fp32", OURS_SHARED, DEFAULT_FP32, speed, "tok/s", 4),
        Goal(WORK, "TRL tuned", OURS_SHARED, TUNED_SHARED, speed, "tok/s", 2.5),
        Goal(WORK, "TRL tuned, fp32", OURS_SHARED, TUNED_SHARED_FP32, speed, "tok/s", 2.5),
        Goal(OWN_WORK, "TRL tuned", OURS_OWN, TUNED_OWN, speed, "tok/s", 1.8),
        Goal(OWN_WORK, "TRL tuned, fp32", OURS_OWN, TUNED_OWN_FP32, speed, "tok/s", 1.8),
        Goal(MEMORY, "TRL as it comes", OURS_SHARED, DEFAULT, megabytes, "MB", 0.6, at_least=False),
        Goal(MEMORY, "TRL as it comes, fp32", OURS_SHARED, DEFAULT_FP32, megabytes, "MB", 0.6, at_least=False),
    ),
    tell=tell,
)
