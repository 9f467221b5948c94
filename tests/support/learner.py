"""A trainer whose held-out loss is a known function of its options, for tests of what searches them."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attrs import field, frozen, validators

from inhouse import TrainerSpec, hookimpl
from inhouse.errors import ResourceError, StepError
from inhouse.protocols import Step
from inhouse.values import Artifact

UNITS = 8
"""Optimiser steps of a training."""

RECIPE = """\
name = "desk"
seed = 7
gates = false
[target]
context = 64

[base]
use = "blank"

[data]
use = "rows"
[data.rows]
chat = "chat.jsonl"

[finetune]
use = "learn"
[finetune.learn]
rank = 8
learning_rate = 1e-3

[quantize]
use = "shrink"
"""


@frozen
class LearnOptions:
    """How the training goes, or goes wrong."""

    rank: int = field(default=8, validator=validators.ge(1), metadata={"help": "rank"})
    alpha: float = field(default=16, metadata={"help": "alpha"})
    rslora: bool = field(default=False, metadata={"help": "scale by the root of the rank"})
    learning_rate: float = field(default=1e-3, validator=validators.gt(0), metadata={"help": "rate"})
    batch_size: int = field(default=4, validator=validators.ge(1), metadata={"help": "rows"})
    decay: Literal["cosine", "linear"] = field(default="cosine", metadata={"help": "decay"})
    evaluations: int = field(default=1, validator=validators.ge(0), metadata={"help": "measurements"})
    diverges: float = field(default=1.0, metadata={"help": "rate from which the loss is no number"})
    hungry: int = field(default=1000, metadata={"help": "rank from which memory is short"})
    mute: bool = field(default=False, metadata={"help": "tell no held-out loss"})
    log: Path | None = field(default=None, metadata={"help": "gets a line for each unit", "counts": False})
    interrupt: int = field(default=0, metadata={"help": "Ctrl-C at this line of the log", "counts": False})


def loss(options: LearnOptions) -> float:
    """Where it ends; lowest at rank 16, alpha twice the rank, rate 3e-3, batch 8, linear decay."""
    return (
        0.5
        + math.log10(options.learning_rate / 3e-3) ** 2
        + 0.1 * abs(math.log2(options.rank / 16))
        + 0.05 * abs(math.log2(options.batch_size / 8))
        + 0.2 * abs(options.alpha / options.rank - 2)
        + (0.0 if options.decay == "linear" else 0.01)
    )


class Learn:
    """Trainer with a held-out loss."""

    def __init__(self, options: LearnOptions) -> None:
        self.options = options

    def train(self, step: Step, model: Artifact, data: Artifact) -> None:
        if self.options.rank >= self.options.hungry:
            raise ResourceError("no memory for this rank", where="here")
        saved = step.checkpoints / "curve.json"
        done, curve = json.loads(saved.read_text()) if saved.exists() else (0, [])
        for unit in range(done + 1, UNITS + 1):
            self._count(unit)
            if self.options.learning_rate >= self.options.diverges:
                raise StepError("the loss is not a number at step 1", where="here", hint="a lower one")
            due = unit * self.options.evaluations // UNITS != (unit - 1) * self.options.evaluations // UNITS
            if due and not self.options.mute:
                curve.append((unit, loss(self.options) + 1 - unit / UNITS))
                step.metric("heldout_loss", curve[-1][1], at=unit)
            saved.write_text(json.dumps((unit, curve)))
            step.progress(unit, UNITS, unit="step")
        (step.outputs["model/hf"] / "model.txt").write_text(f"{model.digest} {self.options.learning_rate}")
        (step.outputs["adapter/peft"] / "adapter.txt").write_text(str(self.options.rank))
        if curve:
            best = min(curve, key=lambda each: each[1])
            step.note(best_heldout_loss=best[1], best_step=best[0], heldout_losses=curve)

    def _count(self, unit: int) -> None:
        if not self.options.log:
            return
        with self.options.log.open("a") as stream:
            stream.write(f"{self.options.rank} {self.options.learning_rate} {self.options.batch_size} {unit}\n")
        if len(self.options.log.read_text().splitlines()) == self.options.interrupt:
            os.kill(os.getpid(), signal.SIGINT)


@hookimpl
def inhouse_trainers() -> Iterator[TrainerSpec]:
    yield TrainerSpec(
        name="learn",
        summary="Trainer with a held-out loss",
        factory="support.learner:Learn",
        options=LearnOptions,
        consumes=("model/hf", "text/chat"),
        produces=("model/hf", "adapter/peft"),
    )
