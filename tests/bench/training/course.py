"""The way of a training child: its held-out losses, on a clock that stands still while they are measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from inhouse_torch.shards import Shards
from training.child import peak_bytes

WINDOWS_AT_ONCE = 8


def heldout_windows(asked: dict[str, Any]) -> torch.Tensor:
    """(windows, context + 1) ids, evenly spread over what was held out; the same for all."""
    shards, length = Shards(Path(asked["tokens"]) / "heldout"), asked["context"]
    there, wanted = (shards.count - 1) // length, asked["heldout_windows"]
    chosen = [there * place // wanted for place in range(min(there, wanted))]
    return torch.stack([shards.read(place * length, length + 1) for place in chosen])


@torch.no_grad()
def heldout_loss(model: Any, windows: torch.Tensor) -> float:
    """Mean token loss by transformers' own forward in fp32, whatever the model trains with."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    model.eval()
    total = 0.0
    for ids in windows.split(WINDOWS_AT_ONCE):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    model.train()
    model.set_attn_implementation(attention)
    return total / windows[:, 1:].numel()


class Course:
    """Tells a child after each step whether it is done, and keeps ``points``: (tokens, seconds, held-out loss).

    Done is who has trained ``steps`` steps, or measures a held-out loss of ``target`` or less. A loss is due
    whenever another ``every`` tokens have been trained, and at the end.
    """

    def __init__(self, asked: dict[str, Any], model: Any) -> None:
        self.points: list[tuple[int, float, float]] = []
        self._model, self._windows = model, heldout_windows(asked)
        self._steps, self._every, self._target = asked["steps"], asked["every"], asked.get("target", float("-inf"))
        self._per_step = asked["batch_size"] * asked["context"]
        self._seconds = 0.0
        self._started = time.perf_counter()

    def begin(self) -> None:
        """To be called where training begins, after the weights have been loaded."""
        self._started = time.perf_counter()

    def step_done(self, step: int) -> bool:
        """To be called at the end of each step, counted from 1; whether the child may stop."""
        self._seconds += time.perf_counter() - self._started
        tokens = step * self._per_step
        due = tokens // self._every > (tokens - self._per_step) // self._every or step == self._steps
        if due:
            self.points.append((tokens, self._seconds, heldout_loss(self._model, self._windows)))
        self._started = time.perf_counter()
        return step == self._steps or (due and self.points[-1][2] <= self._target)

    def facts(self) -> dict[str, Any]:
        """What a child answers."""
        tokens, seconds, _ = self.points[-1]
        return {"points": self.points, "tokens": tokens, "seconds": seconds, "peak_bytes": peak_bytes(),
                "parameters": sum(each.numel() for each in self._model.parameters())}  # fmt: skip
