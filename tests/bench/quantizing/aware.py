"""Quantization-aware fine-tuning on the service desk: what is left of it at true 4 bits.

Three models for each seed, all with the recipe's own settings but for what is said here: ``plain`` (one epoch),
``aware`` (one more epoch against the weights as Q4_0 stores them) and ``control`` (one more epoch at full precision).
Each is measured at 16 bit and as Q4_0 on 200 fresh tasks, whose questions occur nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from training.measure import Row

from .desk import PLAIN, QUICK, RECIPE, run_recipe

SEEDS = (7, 8, 9)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": PLAIN,
    "aware": {},
    "control": {**PLAIN, "finetune.lora.epochs": 2},
}
TWO_CALLS = ("order+calculation", "order+policy")
Found = Mapping[tuple[int, str], Mapping[str, Any]]


def measure(quick: bool) -> list[Row]:
    """Runs every variant for every seed (about an hour and a half on two cores; what is in the store is not run again)."""
    found: dict[tuple[int, str], Mapping[str, Any]] = {}
    for seed in SEEDS[:1] if quick else SEEDS:
        for name, sets in VARIANTS.items():
            found[seed, name] = _run({"seed": seed, **sets}, quick)
            _tell(seed, name, found[seed, name])
    return _rows(found)


def _run(sets: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """One variant: {"tuned": …, "quantized": …, "seconds": of the fine-tuning}."""
    every = {
        "quantize.gguf.type": "q4_0",
        "evaluate.tasks.tasks": RECIPE.with_name("fresh.jsonl"),
        "evaluate.tasks.roles": ["tuned", "quantized"],
        **(QUICK if quick else {}),
        **sets,
    }
    record = run_recipe(every, until="evaluate")
    report = json.loads(Path(record["report"], "report.json").read_text(encoding="utf-8"))
    seconds = next(step["made_seconds"] for step in record["steps"] if step["name"] == "finetune")
    return {**{role: report["tasks"][role] for role in ("tuned", "quantized")}, "seconds": seconds}


def _tell(seed: int, name: str, found: Mapping[str, Any]) -> None:
    tuned, quantised = found["tuned"], found["quantized"]
    print(
        f"  seed {seed}, {name:8} 16 bit {_share(tuned):5.1f} %, {quantised['type']} at"
        f" {quantised['bits_per_weight']:.2f} bits {_share(quantised):5.1f} % (two calls {_two(quantised):.0f} %),"
        f" loss {tuned['loss']:.3f} and {quantised['loss']:.3f}; fine-tuned in {found['seconds']:.0f} s",
        flush=True,
    )


def _share(result: Mapping[str, Any]) -> float:
    return 100.0 * result["solved"] / result["total"]


def _two(result: Mapping[str, Any]) -> float:
    kinds = [result["kinds"][kind] for kind in TWO_CALLS]
    return 100.0 * sum(each["solved"] for each in kinds) / sum(each["total"] for each in kinds)


def _rows(found: Found) -> list[Row]:
    seeds = sorted({seed for seed, _ in found})

    def of(name: str, role: str, figure: Any = _share) -> list[float]:
        return [figure(found[seed, name][role]) for seed in seeds]

    aware, two = mean(of("aware", "quantized")), mean(of("aware", "quantized", _two))
    best = max(mean(of("control", "tuned")), mean(of("aware", "tuned")))
    plain, more = ([found[seed, name]["seconds"] for seed in seeds] for name in ("plain", "aware"))
    epoch = mean(b - a for a, b in zip(plain, more, strict=True))
    work = "service desk, quantization-aware, Q4_0: tasks solved"
    return [
        _row(work, "the bar", aware, 75.0, "%", ">= 75", aware >= 75),
        _row(work, "best 16 bit, as many steps", aware, best, "%", "<= 5 less", best - aware <= 5),
        _row(work, "plain, Q4_0", aware, mean(of("plain", "quantized")), "%", "", True),
        _row(work, "control, Q4_0", aware, mean(of("control", "quantized")), "%", "", True),
        _row("the same: tasks of two calls", "the bar", two, 40.0, "%", ">= 40", two >= 40),
        _row(
            "seconds of the epoch", "a plain epoch", epoch, mean(plain), "s", "<= 1.5 times", epoch <= 1.5 * mean(plain)
        ),
    ]


def _row(work: str, against: str, ours: float, peer: float, unit: str, goal: str, met: bool) -> Row:
    return Row(work, against, ours, peer, ours / peer if peer else 0.0, unit, goal, met)
