"""A child that trains with transformers' Trainer as it comes; only output, logging and saving are turned off."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from training.child import Clock, answer, job, versions
from training.ticking import Ticking
from training.windows import batches


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The rows of all batches, one after the other."""

    def __init__(self, found: list[torch.Tensor]) -> None:
        self._rows = torch.cat(found)[:, :-1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


class InOrder(Trainer):
    """Takes the rows as they come, and keeps the losses."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses.append(loss.item())
        return loss


def main() -> None:
    """Trains and answers."""
    asked = job()
    clock = Clock(asked["warmup"], asked["steps"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32),
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=asked["batch_size"],
                learning_rate=asked["learning_rate"],
                max_steps=clock.warmup + clock.steps,
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Rows(batches(asked)),
            callbacks=[Ticking(clock)],
        )
        trainer.losses = []
        trainer.train()
    answer(
        tokens=clock.steps * asked["batch_size"] * asked["context"],
        seconds=clock.seconds,
        peak_bytes=clock.peak_bytes,
        losses=trainer.losses,
        versions=versions("torch", "transformers"),
    )


if __name__ == "__main__":
    main()
