"""A child that trains with the loop and the task of the trainer `scratch`, until it has the target loss.

``options`` of the job are the trainer's own, by name; what they leave out is as it ships. The plan of the
learning rate and of the growing sequences is as long as ``steps``, on windows drawn from the whole corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from inhouse_torch import Scratch
from inhouse_torch.allocator import freed_memory_kept
from inhouse_torch.bigrams import begin_from, count_pairs
from inhouse_torch.corpus import Tokens
from inhouse_torch.folders import load_model, load_tokenizer
from inhouse_torch.loop import Moment, Settings, fit
from inhouse_torch.precision import compute_dtype
from inhouse_torch.schedule import batch
from inhouse_torch.scratch import ScratchTask
from inhouse_torch.shards import Shards
from training.child import answer, job, versions
from training.course import Course


class Enough(Exception):
    """The target is reached, or the steps that were asked for are done."""


class Planned(ScratchTask):
    """An epoch of ``count`` windows out of the corpus, the ones that the peers begin with and in their order.

    With ``fixed`` they are cut where the peers cut, too.
    """

    def __init__(self, model: Any, tokens: Tokens, options: Scratch, *, count: int, seed: int, fixed: bool) -> None:
        super().__init__(model, tokens, options)
        wanted = batch(self.count, count, 0, seed=seed, epoch=0)
        order = batch(len(wanted), len(wanted), 0, seed=seed, epoch=0)  # in which the loop takes them
        self._drawn = dict(zip(order, wanted, strict=True))
        self.count, self.steps, self._fixed = len(wanted), -(-len(wanted) // options.batch_size), fixed

    def begin(self, *key: int) -> None:
        """As ever, or no offset."""
        super().begin(*key)
        if self._fixed:
            self._offset = 0

    def losses(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Of the windows that were drawn."""
        yield from super().losses([self._drawn[row] for row in rows])


def main() -> None:
    """Trains and answers."""
    asked = job()
    model = load_model(Path(asked["model"]), torch.float32)
    corpus = Path(asked["tokens"])
    tokens = Tokens(load_tokenizer(corpus / "tokenizer"), Shards(corpus / "train"), Shards(corpus / "heldout"), 1)
    options = Scratch(context=asked["context"], batch_size=asked["batch_size"], **asked["options"])
    course = Course(asked, model)
    course.begin()
    if options.first_weights == "bigrams":
        begin_from(count_pairs(tokens.train, model.config.vocab_size), model)
    count = asked["steps"] * options.batch_size
    task = Planned(model, tokens, options, count=count, seed=asked["seed"], fixed=asked.get("fixed", False))
    # peers save nothing and measure no loss of their own
    settings = evolve(Settings.of(options, betas=(0.9, 0.95)), evaluations=0, checkpoint_seconds=1e9)

    def tell(moment: Moment) -> None:
        if course.step_done(moment.step):
            raise Enough

    with tempfile.TemporaryDirectory() as folder, freed_memory_kept(), suppress(Enough):
        fit(task, settings, seed=asked["seed"], folder=Path(folder), tell=tell)
    dtype = str(compute_dtype("auto")).removeprefix("torch.")
    answer(**course.facts(), compute_dtype=dtype, versions=versions("torch", "transformers"))


if __name__ == "__main__":
    main()
