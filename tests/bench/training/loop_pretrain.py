"""A child with a plain loop in fp32, as nanoGPT runs on a CPU: all logits, cross entropy, AdamW, clipping."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from training.child import Clock, answer, job, versions
from training.windows import batches


def main() -> None:
    """Trains and answers."""
    asked = job()
    clock, losses = Clock(asked["warmup"], asked["steps"]), []
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
    for step, ids in enumerate(batches(asked), 1):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        clock.step_done(step)
    answer(
        tokens=clock.steps * asked["batch_size"] * asked["context"],
        seconds=clock.seconds,
        peak_bytes=clock.peak_bytes,
        losses=losses,
        versions=versions("torch", "transformers"),
    )


if __name__ == "__main__":
    main()
