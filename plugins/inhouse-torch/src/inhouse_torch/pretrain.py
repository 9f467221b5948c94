"""The trainer `pretrain`: next-token training of all weights on the documents of the corpus.

Each document is a segment of its own in a joined batch (no attention across documents), closed by the
end-of-text token. Weights and optimizer state are fp32; products are bf16 where that is faster.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inhouse.errors import DataError
from inhouse.protocols import Step
from inhouse.values import Artifact

from . import Pretrain
from .curve import save_curve
from .dense import DenseLinears
from .device import training_on
from .folders import load_model, matching_tokenizer, save_model, stored_dtype
from .forward import joined_losses, mean_loss
from .loop import Settings, fit
from .optimizers import matrices
from .packing import Sample
from .patch import speed_up
from .precision import compute_dtype
from .report import telling
from .sampling import showing


class PretrainTask:
    """All weights of ``model`` on ``train``; see :class:`inhouse_torch.loop.Task`.

    ``folder`` is the checkpoint folder, in which a measured number format is kept.
    """

    def __init__(
        self,
        model: Any,
        train: Sequence[Sample],
        heldout: Sequence[Sample],
        options: Pretrain,
        folder: Path | None = None,
    ) -> None:
        self.count = len(train)
        self.parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())  # a tied weight comes once
        self.matrices: Collection[str] = matrices(model)
        self.buffers: Mapping[str, Tensor] = {}
        self._model, self._train, self._heldout, self._options = model, train, heldout, options
        self._dtype = compute_dtype(options.compute_dtype, device=model.device.type, folder=folder)
        self._patched = speed_up(model, DenseLinears())
        model.train()

    def begin(self, *key: int) -> None:
        """Nothing here is random but what torch's own generator decides."""

    def targets(self, rows: Sequence[int]) -> int:
        """Tokens that count in the loss."""
        return sum(self._train[row].targets for row in rows)

    def tokens(self, rows: Sequence[int]) -> int:
        """All tokens of these rows."""
        return sum(len(self._train[row].ids) for row in rows)

    def losses(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Summed losses of the micro-batches."""
        samples = [self._train[row] for row in rows]
        return joined_losses(self._model, samples, self._options.micro_batch_tokens, self._dtype)

    def heldout(self) -> float | None:
        """Mean loss on the documents kept out."""
        return mean_loss(self._model, self._heldout, self._options.micro_batch_tokens, self._dtype)

    def close(self) -> None:
        """Gives the model its own forwards back."""
        self._patched.undo(self._model)

    def name(self, row: int) -> str:
        """The document's id."""
        return self._train[row].name


def documents(step: Step, corpus: Artifact, tokenizer: Any, context: int) -> list[list[Sample]]:
    """The pieces of every document, at most ``context`` tokens each. Raises ``DataError`` without text."""
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    found: list[list[Sample]] = []
    cut = 0
    with (corpus.path / "corpus.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = f"{row['title']}\n{row['text']}" if row.get("title") else row["text"]
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] + end
            pieces = [ids[start : start + context] for start in range(0, len(ids), context)]
            cut += len(pieces) > 1
            samples = [Sample(tuple(p), (True,) * len(p), str(row["id"])) for p in pieces if len(p) > 1]
            if samples:
                found.append(samples)
    if not found:
        raise DataError("the corpus has no text to learn from", where=str(corpus.path / "corpus.jsonl"))
    if cut:
        step.notice(f"{cut} of {len(found)} documents are longer than {context} tokens and were cut into pieces")
    return found


def split(found: list[list[Sample]], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out pieces; whole documents go to one side, and at least one stays for training."""
    order = list(range(len(found)))
    random.Random(seed).shuffle(order)  # noqa: S311  (a split, not a secret)
    count = min(round(share * len(found)), len(found) - 1)
    apart = set(order[:count])
    train = [sample for number, samples in enumerate(found) if number not in apart for sample in samples]
    return train, [sample for number in sorted(apart) for sample in found[number]]


class PretrainTrainer:
    """Reads ``model/hf`` and ``text/corpus``, writes ``model/hf`` in the 16-bit format of the base."""

    def __init__(self, options: Pretrain) -> None:
        self.options = options

    def train(self, step: Step, *inputs: Any) -> None:
        """Trains, goes on from a checkpoint if there is one, and writes the model with the lowest loss."""
        with training_on(self.options.device) as device:
            self._train(step, device, *inputs)

    def _train(self, step: Step, device: torch.device, base: Artifact, corpus: Artifact) -> None:
        options = self.options
        model = load_model(base.path, torch.float32, device)
        tokenizer = matching_tokenizer(base.path, model)
        context = min(options.context, getattr(model.config, "max_position_embeddings", options.context))
        train, heldout = split(documents(step, corpus, tokenizer, context), options.heldout, step.seed)
        task = PretrainTask(model, train, heldout, options, step.checkpoints)
        settings = Settings.of(options)
        progress = telling(
            step,
            lambda tell: fit(task, settings, seed=step.seed, folder=step.checkpoints, tell=tell),
            showing(step, model, tokenizer, options.sample) if options.sample else None,
        )
        step.note(train_documents=len(train), heldout_documents=len(heldout), device=device.type)
        task.close()
        save_model(model, base.path, step.output, stored_dtype(base.path))
        save_curve(progress, step.output / "loss.png")
