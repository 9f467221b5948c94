"""A child with transformers' Trainer as it comes, to the end of its linear schedule.

Only output, logging and saving are turned off; ``arguments`` of the job are laid over its own.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments

from training.child import answer, job, versions
from training.course import Course
from training.trainer_pretrain import InOrder, Rows
from training.windows import batches


class Whole(Rows):
    """Rows with the token after the window, so that every token of the window has a target, as with the others."""

    def __init__(self, found: list[torch.Tensor]) -> None:
        super().__init__(found)
        self._rows = torch.cat(found)


class OnCourse(TrainerCallback):
    """Begins the course and tells it of each step."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the first batch."""
        self._course.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the optimizer's step."""
        if self._course.step_done(state.global_step):
            control.should_training_stop = True


def main() -> None:
    """Trains and answers."""
    asked = job()
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32)
    course = Course(asked, model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=asked["batch_size"],
                learning_rate=asked["learning_rate"],
                max_steps=asked["steps"],
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **asked["arguments"],
            ),
            train_dataset=Whole(batches(asked)),
            callbacks=[OnCourse(course)],
        )
        trainer.losses = []
        trainer.train()
    answer(**course.facts(), versions=versions("torch", "transformers"))


if __name__ == "__main__":
    main()
