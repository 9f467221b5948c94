"""A child that trains LoRA with the trainer `lora`, as a recipe would: ``LoraTrainer.train`` on a folder of chats.

The job: ``base`` and ``data`` (folders), ``warmup``, ``steps``, ``seed``, ``batch_size``, ``learning_rate``,
``rank``, ``alpha``; with ``profile`` the timed steps run under torch's profiler.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

from inhouse_peft import Lora
from inhouse_peft.lora import LoraTrainer, read_chats
from inhouse_torch.folders import load_tokenizer
from inhouse_torch.packing import Packed, Sample, pack
from inhouse_torch.schedule import batch
from training.child import Clock, answer, job, versions

OPERATORS = 12


class BenchStep:
    """What the trainer uses of a step; its progress drives the clock, and the profiler where one is given."""

    def __init__(self, folder: Path, clock: Clock, seed: int, profiler: Any = None) -> None:
        self.seed = seed
        self.checkpoints = folder / "checkpoints"
        self.outputs = {"model/hf": folder / "model", "adapter/peft": folder / "adapter"}
        for output in self.outputs.values():
            output.mkdir()
        self.facts: dict[str, Any] = {}
        self._clock, self._profiler = clock, profiler

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        """Called by the trainer at the end of each step."""
        if self._profiler and done == self._clock.warmup:
            self._profiler.start()
        self._clock.step_done(int(done))
        if self._profiler and done == total:
            self._profiler.stop()

    def metric(self, name: str, value: float, *, at: int) -> None:
        """Nothing: losses come with the notes."""

    def notice(self, message: str, *, level: str = "info") -> None:
        """To standard error."""
        sys.stderr.write(message + "\n")

    def note(self, **facts: Any) -> None:
        """Kept."""
        self.facts.update(facts)


def operations(packed: Packed, config: Any, rank: int) -> int:
    """Floating-point operations that a step needs for ``packed``: matrix products only, nothing twice.

    The frozen weights are multiplied forward and backward to the input, the adapter also to its weights;
    the head only where there is a target; attention over the keys that a token may see.
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    size = config.head_dim or width // config.num_attention_heads
    heads, kv = config.num_attention_heads * size, config.num_key_value_heads * size
    shapes = [(width, heads), (width, kv), (width, kv), (heads, width), (width, inner), (width, inner), (inner, width)]
    frozen = sum(a * b for a, b in shapes) * 4
    adapter = sum(a + b for a, b in shapes) * rank * 6
    seen = sum(range(1, packed.segments.prefix + 1))
    for length in packed.segments.lengths:
        seen += length * packed.segments.prefix + sum(range(1, length + 1))
    tokens, targets = packed.segments.total, len(packed.targets)
    # two products forward, four backward
    total: int = layers * (tokens * (frozen + adapter) + seen * heads * 12) + targets * config.vocab_size * width * 4
    return total


def batches(samples: list[Sample], size: int, seed: int) -> list[list[Sample]]:
    """The batches in the order in which the trainer takes them."""
    count = -(-len(samples) // size)
    return [[samples[row] for row in batch(len(samples), size, place, seed=seed, epoch=0)] for place in range(count)]


def main() -> None:
    """Trains and answers."""
    asked = job()
    clock = Clock(asked["warmup"], asked["steps"])
    options = Lora(
        rank=asked["rank"],
        alpha=asked["alpha"],
        dropout=0.0,
        learning_rate=asked["learning_rate"],
        batch_size=asked["batch_size"],
        epochs=1,
        warmup=0.0,
        decay="linear",  # what TRL does unless it is told otherwise
        evaluations=0,
        heldout=0.0,
        checkpoint_seconds=1e9,  # peers are told to save nothing too
    )
    base, data = Path(asked["base"]), Path(asked["data"])
    profiler = profile(activities=[ProfilerActivity.CPU]) if asked.get("profile") else None
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        step: Any = BenchStep(Path(folder), clock, asked["seed"], profiler)
        LoraTrainer(options).train(step, SimpleNamespace(path=base), SimpleNamespace(path=data))
    samples, _ = read_chats(data / "train.jsonl", load_tokenizer(base), options.context)
    timed = [pack(rows) for rows in batches(samples, options.batch_size, asked["seed"])[clock.warmup :]]
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    table = ""
    if profiler:
        table = profiler.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=OPERATORS, max_name_column_width=40
        )
    answer(
        tokens=sum(packed.real_tokens for packed in timed),
        computed_tokens=sum(packed.segments.total for packed in timed),
        operations=sum(operations(packed, config, options.rank) for packed in timed),
        seconds=clock.seconds,
        peak_bytes=clock.peak_bytes,
        losses=step.facts["losses"],
        compute_dtype=step.facts["compute_dtype"],
        threads=torch.get_num_threads(),
        table=table,
        versions=versions("torch", "transformers", "peft"),
    )


if __name__ == "__main__":
    main()
