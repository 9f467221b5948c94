"""The trainer `lora`: completion-only loss on chats, held-out loss, early stop, merge."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from inhouse.errors import DataError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_torch.allocator import give_back
from inhouse_torch.device import training_on
from inhouse_torch.folders import load_model, matching_tokenizer, save_model, stored_dtype
from inhouse_torch.forward import joined_losses, mean_loss
from inhouse_torch.loop import Settings, fit
from inhouse_torch.packing import Sample
from inhouse_torch.patch import Patched
from inhouse_torch.precision import compute_dtype
from inhouse_torch.report import telling
from inhouse_torch.schedule import steps_in_epoch

from . import Lora
from .adapter import add_adapter, merge, save_adapter
from .chats import encode
from .dropout import Dropout
from .merged import RoundedModel
from .patch import speed_up
from .qlora import load_quantized, merge_into, missing


class LoraTask:
    """The adapter in ``model`` (peft's) on chats; see :class:`inhouse_torch.loop.Task`."""

    def __init__(self, model: Any, train: Sequence[Sample], heldout: Sequence[Sample], options: Lora) -> None:
        self.count = len(train)
        self.parameters: Mapping[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.matrices: Collection[str] = ()  # a factor is no matrix to make orthogonal
        self.buffers: Mapping[str, Tensor] = {}
        self._train, self._heldout = train, heldout
        self._most = options.micro_batch_tokens
        self._dropout = Dropout(options.dropout)
        self._causal = model.get_base_model()
        self.patched = self._speed_up()
        self._causal.train()

    def _speed_up(self) -> Patched:
        return speed_up(self._causal, self._dropout)

    def begin(self, *key: int) -> None:
        """Seeds the dropout."""
        self._dropout.begin(*key)

    def targets(self, rows: Sequence[int]) -> int:
        """Tokens of the assistant."""
        return sum(self._train[row].targets for row in rows)

    def tokens(self, rows: Sequence[int]) -> int:
        """All tokens of these rows."""
        return sum(len(self._train[row].ids) for row in rows)

    def losses(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Summed losses of the micro-batches."""
        return joined_losses(self._causal, [self._train[row] for row in rows], self._most)

    def heldout(self) -> float | None:
        """Mean loss on the chats kept out, without dropout."""
        return mean_loss(self._causal, self._heldout, self._most)

    def name(self, row: int) -> str:
        """File and line of the chat."""
        return self._train[row].name

    def close(self) -> None:
        """Gives the model its own forwards back."""
        self.patched.undo(self._causal)


class RoundedTask(LoraTask):
    """The same adapter, with the model's weights as a quantised file would hold them; no dropout.

    They are rounded anew every ``weights.rounded.every`` steps, and for each held-out loss.
    """

    def __init__(
        self,
        model: Any,
        train: Sequence[Sample],
        heldout: Sequence[Sample],
        options: Lora,
        weights: RoundedModel,
    ) -> None:
        self._weights = weights
        self._every, self._current = weights.rounded.every, False
        super().__init__(model, train, heldout, options)
        if self._every > 1:
            self.buffers = {name: each.detach().clone() for name, each in self.parameters.items()}

    def _speed_up(self) -> Patched:
        return self._weights.speed_up()

    def begin(self, *key: int) -> None:
        """Rounds the weights where it is their turn."""
        super().begin(*key)
        if key[1] % self._every == 0:
            for name, buffer in self.buffers.items():
                buffer.copy_(self.parameters[name].detach())
            self._weights.refresh()
        elif not self._current:  # resumed, or after a held-out loss
            self._weights.refresh({self.parameters[name]: buffer for name, buffer in self.buffers.items()})
        self._current = True

    def heldout(self) -> float | None:
        """Mean loss on the chats kept out, with the weights as they are now."""
        self._weights.refresh()
        self._current = False
        return super().heldout()


def read_chats(file: Path, tokenizer: Any, context: int) -> tuple[list[Sample], int]:
    """The chats of a JSON-lines file (rows with ``messages``), and how many were cut to ``context`` tokens.

    Raises ``DataError`` with file and line.
    """
    samples: list[Sample] = []
    cut = 0
    if not file.exists():
        return samples, cut
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            name = f"{file}:{number}"
            try:
                messages = json.loads(line)["messages"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError("this row is no JSON object with messages", where=name) from error
            sample, shortened = encode(tokenizer, messages, context=context, name=name)
            samples.append(sample)
            cut += shortened
    return samples, cut


def split_off(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """(training, held out) by a seeded draw; at least one sample stays for training."""
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)  # noqa: S311  (a split, not a secret)
    apart = set(order[: min(round(share * len(samples)), len(samples) - 1)])
    return [s for i, s in enumerate(samples) if i not in apart], [samples[i] for i in sorted(apart)]


class LoraTrainer:
    """Reads ``model/hf`` and ``text/chat``; writes the merged ``model/hf`` and the ``adapter/peft``."""

    def __init__(self, options: Lora) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Why it cannot run here."""
        options = self.options
        if options.quantization_aware and (options.dora or options.quantized_base != "none"):
            return "quantization_aware merges the adapter at each step, which dora and quantized_base do not allow"
        return missing() if options.quantized_base != "none" else None

    def train(self, step: Step, *inputs: Any) -> None:
        """Trains, goes on from a checkpoint if there is one, and writes adapter and merged model."""
        with training_on(self.options.device) as device:
            self._train(step, device, *inputs)

    def _train(self, step: Step, device: torch.device, base: Artifact, data: Artifact) -> None:
        options = self.options
        dtype = compute_dtype(options.compute_dtype, device=device.type, folder=step.checkpoints)
        quantized = options.quantized_base != "none"
        if quantized:
            model = load_quantized(base.path, options.quantized_base, dtype, device)
        else:
            model = load_model(base.path, dtype, device)
        context = min(options.context, getattr(model.config, "max_position_embeddings", options.context))
        tokenizer = matching_tokenizer(base.path, model)
        train, heldout = self._data(step, tokenizer, data, context)
        tuned = add_adapter(model, options, step.seed)
        task = LoraTask(tuned, train, heldout, options)
        aware = bool(options.quantization_aware)
        rounded = self._rounded(step, tuned, base) if aware else None  # before any work: it may refuse, and is held
        settings = Settings.of(options)
        fitting = partial(fit, task, settings, seed=step.seed, folder=step.checkpoints, keep=aware)
        more = steps_in_epoch(len(train), options.batch_size) * options.quantization_aware_epochs if aware else 0
        progress = telling(step, lambda tell: fitting(tell=tell), more=more)
        task.close()
        if rounded is not None:
            task = RoundedTask(tuned, train, heldout, evolve(options, dropout=0.0), rounded)
            self._hold_to_format(step, task, after=progress.step)
        step.note(train_chats=len(train), heldout_chats=len(heldout), compute_dtype=str(dtype).removeprefix("torch."))
        step.note(device=device.type)
        save_adapter(tuned, step.outputs["adapter/peft"])
        if quantized or aware:
            del model, tuned, task, fitting, rounded  # the base in 16 bits takes their place
            give_back()
            merged = merge_into(base.path, step.outputs["adapter/peft"])
        else:
            merged = merge(tuned)
        save_model(merged, base.path, step.outputs["model/hf"], stored_dtype(base.path))

    def _rounded(self, step: Step, tuned: Any, base: Artifact) -> RoundedModel:
        rounding = step.service("quantization_aware").open(base.path)
        return RoundedModel(tuned.get_base_model(), rounding, stored_dtype(base.path))

    def _hold_to_format(self, step: Step, task: RoundedTask, *, after: int) -> None:
        """Goes on with the weights as the format of ``quantization_aware`` stores them."""
        options = self.options
        rate = options.quantization_aware_learning_rate or options.learning_rate / 2
        settings = Settings.of(options, epochs=options.quantization_aware_epochs, learning_rate=rate)
        fitting = partial(fit, task, settings, seed=step.seed + 1, folder=step.checkpoints / "rounded")
        telling(step, lambda tell: fitting(tell=tell), after=after, prefix="rounded_")
        task.close()

    def _data(self, step: Step, tokenizer: Any, data: Artifact, context: int) -> tuple[list[Sample], list[Sample]]:
        train, cut = read_chats(data.path / "train.jsonl", tokenizer, context)
        heldout, _ = read_chats(data.path / "heldout.jsonl", tokenizer, context)
        if not train:
            raise DataError("there are no chats to train on", where=str(data.path / "train.jsonl"))
        if cut:
            step.notice(f"{cut} of {len(train)} chats are longer than {context} tokens and were cut at a turn border")
            step.note(cut_chats=cut)
        return (train, heldout) if heldout else split_off(train, self.options.heldout, step.seed)
