"""A child that trains from scratch with the loop and the task of the trainer `scratch`.

The optimizer is AdamW and sequences do not grow, as with the peers; the weights begin where theirs begin.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from inhouse_torch import Scratch
from inhouse_torch.allocator import freed_memory_kept
from inhouse_torch.corpus import Tokens
from inhouse_torch.folders import load_model, load_tokenizer
from inhouse_torch.loop import Moment, Settings, fit
from inhouse_torch.precision import compute_dtype
from inhouse_torch.scratch import ScratchTask
from inhouse_torch.shards import Shards
from training.child import Clock, answer, job, versions
from training.windows import operations


class Enough(Exception):
    """The steps that were asked for are done."""


class FixedCut(ScratchTask):
    """Cuts where the peers do: every window begins at a multiple of the context."""

    def begin(self, *key: int) -> None:
        """No offset."""


def main() -> None:
    """Trains and answers."""
    asked = job()
    clock = Clock(asked["warmup"], asked["steps"])
    last, losses = clock.warmup + clock.steps, []
    model = load_model(Path(asked["model"]), torch.float32)
    corpus = Path(asked["tokens"])
    tokens = Tokens(load_tokenizer(corpus / "tokenizer"), Shards(corpus / "train"), Shards(corpus / "heldout"), 1)
    options = Scratch(context=asked["context"], batch_size=asked["batch_size"], optimizer="adamw", grow_context=0.0)
    task = FixedCut(model, tokens, options)
    settings = Settings(
        learning_rate=asked["learning_rate"], batch_size=asked["batch_size"], epochs=1, warmup=0.0, evaluations=0,
        decay="constant", weight_decay=0.0, checkpoint_seconds=1e9,
    )  # fmt: skip
    profiler: Any = profile(activities=[ProfilerActivity.CPU]) if asked.get("profile") else None

    def tell(moment: Moment) -> None:
        losses.append(moment.loss)
        if profiler and moment.step == clock.warmup:
            profiler.start()
        clock.step_done(moment.step)
        if moment.step == last:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, freed_memory_kept(), suppress(Enough):
        fit(task, settings, seed=asked["seed"], folder=Path(folder), tell=tell)
    if profiler:
        profiler.stop()
    trained = clock.steps * asked["batch_size"] * asked["context"]
    answer(
        tokens=trained,
        operations=operations(model, trained, asked["context"]),
        seconds=clock.seconds,
        peak_bytes=clock.peak_bytes,
        losses=losses,
        compute_dtype=str(compute_dtype("auto")).removeprefix("torch."),
        table=profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12) if profiler else "",
        versions=versions("torch", "transformers"),
    )


if __name__ == "__main__":
    main()
