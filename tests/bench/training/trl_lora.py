"""A child that trains LoRA with TRL's SFTTrainer.

The job: ``base`` and ``tokens`` (paths), ``warmup``, ``steps``, ``batch_size``, ``learning_rate``, ``rank``,
``alpha``, and ``config``, further arguments of ``SFTConfig`` beside output, logging and saving turned off.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from training.child import Clock, answer, job, versions
from training.ticking import Ticking


class Counting(SFTTrainer):
    """Notes tokens without padding and the loss of each step."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """As TRL does it."""
        self.tokens.append(int(inputs["attention_mask"].sum()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses.append(loss.item())
        return loss


def main() -> None:
    """Trains and answers."""
    asked = job()
    clock = Clock(asked["warmup"], asked["steps"])
    rows = [json.loads(line) for line in Path(asked["tokens"]).read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Counting(
            model=asked["base"],
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=asked["batch_size"],
                learning_rate=asked["learning_rate"],
                max_steps=clock.warmup + clock.steps,
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **asked["config"],
            ),
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(
                r=asked["rank"],
                lora_alpha=asked["alpha"],
                lora_dropout=0.0,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[Ticking(clock)],
        )
        trainer.tokens, trainer.losses = [], []
        trainer.train()
    answer(
        tokens=sum(trainer.tokens[clock.warmup :]),
        seconds=clock.seconds,
        peak_bytes=clock.peak_bytes,
        losses=trainer.losses,
        trained=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        threads=torch.get_num_threads(),
        versions=versions("torch", "transformers", "peft", "trl", "accelerate", "datasets"),
    )


if __name__ == "__main__":
    main()
