"""A child with a plain fp32 loop as nanoGPT runs on a CPU, to the end of its schedule.

AdamW with weight decay on matrices only, warm-up and then a cosine down to a tenth of the rate, clipping at 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from training.child import answer, job, versions
from training.course import Course
from training.windows import batches


def optimizer_of(model: Any, asked: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW in two groups."""
    matrices = [each for each in model.parameters() if each.dim() >= 2]
    rest = [each for each in model.parameters() if each.dim() < 2]
    groups = [{"params": matrices, "weight_decay": asked["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=asked["learning_rate"], betas=(0.9, 0.95))


def rate(step: int, asked: dict[str, Any]) -> float:
    """The learning rate of ``step``, counted from 0; ``rising`` is the share of steps that it rises in."""
    peak, steps, rising = asked["learning_rate"], asked["steps"], round(asked["rising"] * asked["steps"])
    if step < rising:
        return float(peak * (step + 1) / (rising + 1))
    if asked["decay"] == "constant":
        return float(peak)
    low = peak / 10
    gone = (step - rising) / max(1, steps - rising)
    return float(low + 0.5 * (1 + math.cos(math.pi * gone)) * (peak - low))


def main() -> None:
    """Trains and answers."""
    asked = job()
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).train()
    rows = batches(asked)
    course = Course(asked, model)
    course.begin()
    optimizer = optimizer_of(model, asked)
    for step, ids in enumerate(rows):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, asked)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if course.step_done(step + 1):
            break
    answer(**course.facts(), versions=versions("torch", "transformers"))


if __name__ == "__main__":
    main()
