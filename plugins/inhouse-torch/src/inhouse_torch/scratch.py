"""The trainer `scratch`: a tokenizer and a model of our own, from nothing but the corpus.

The corpus is one row of tokens, cut into windows; an epoch reads every window once, in a random order, and
each epoch cuts elsewhere. Weights and optimizer state are fp32; products are bf16 where that is faster.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inhouse.errors import DataError
from inhouse.protocols import Step
from inhouse.values import Artifact

from . import Scratch, checkpoint
from .bigrams import begin_from, count_pairs
from .bpe import end_of_text
from .corpus import Tokens, prepare
from .curve import save_curve
from .dense import DenseLinears
from .device import training_on
from .forward import joined_loss
from .loop import Settings, fit
from .optimizers import matrices
from .packing import Packed, Segments
from .patch import speed_up
from .precision import compute_dtype
from .report import telling
from .sampling import showing
from .schedule import steps_in_epoch
from .shape import Shape, by_depth, by_parameters, fresh_model, parse_count
from .shards import Shards

SHORTEST = 32
"""Tokens of the shortest sequence that growing begins with."""
HELDOUT_WINDOWS = 256
"""Most windows that the held-out loss is measured on."""


class ScratchTask:
    """All weights of ``model`` on windows of ``tokens``; see :class:`inhouse_torch.loop.Task`.

    ``folder`` is the checkpoint folder, in which a measured number format is kept.
    """

    def __init__(self, model: Any, tokens: Tokens, options: Scratch, folder: Path | None = None) -> None:
        self._length = options.context
        self.count = max(1, (tokens.train.count - self._length) // self._length)
        self.steps = steps_in_epoch(self.count, options.batch_size)
        self.parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
        self.matrices: Collection[str] = matrices(model)
        self.buffers: Mapping[str, Tensor] = {}
        self._model, self._tokens, self._options = model, tokens, options
        self._offset, self._pieces = 0, 1
        self._dtype = compute_dtype(options.compute_dtype, device=model.device.type, folder=folder)
        self._patched = speed_up(model, DenseLinears())
        model.train()

    def begin(self, *key: int) -> None:
        """Where this epoch cuts, and into how many sequences a window is cut while they still grow."""
        seed, step = key
        spare = min(self._length, self._tokens.train.count - self.count * self._length) - 1
        draw = random.Random((seed << 32) ^ (step // self.steps))  # noqa: S311  (an order, not a secret)
        self._offset = draw.randint(0, max(0, spare))
        self._pieces = pieces(step / (self.steps * self._options.epochs), self._options.grow_context, self._length)

    def targets(self, rows: Sequence[int]) -> int:
        """Tokens that count in the loss: all of a window."""
        return len(rows) * self._length

    def tokens(self, rows: Sequence[int]) -> int:
        """All tokens of these rows."""
        return len(rows) * self._length

    def losses(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Summed losses of the micro-batches."""
        starts = [row * self._length + self._offset for row in rows]
        yield from self._losses(self._tokens.train, starts, self._pieces)

    def heldout(self) -> float | None:
        """Mean loss on whole windows of what was kept out, evenly spread over it."""
        shards = self._tokens.heldout
        there = (shards.count - 1) // self._length
        if there < 1:
            return None
        chosen = range(0, there, -(-there // HELDOUT_WINDOWS))
        with torch.no_grad():
            total = sum(loss.item() for loss in self._losses(shards, [i * self._length for i in chosen], 1))
        return total / (len(chosen) * self._length)

    def close(self) -> None:
        """Gives the model its own forwards back."""
        self._patched.undo(self._model)

    def name(self, row: int) -> str:
        """The window's place in the corpus."""
        start = row * self._length + self._offset
        return f"tokens {start} to {start + self._length} of the corpus"

    def _losses(self, shards: Shards, starts: Sequence[int], count: int) -> Iterator[Tensor]:
        at_once = max(1, self._options.micro_batch_tokens // self._length)
        for first in range(0, len(starts), at_once):
            windows = [shards.read(start, self._length + 1) for start in starts[first : first + at_once]]
            packed = join(torch.stack(windows).to(self._model.device), count)
            yield joined_loss(self._model, packed, self._dtype)


def pieces(done: float, grow: float, length: int) -> int:
    """Into how many sequences a window is cut when the share ``done`` of the training is over.

    8, 4 and 2 in turns over the share ``grow``, then 1; never shorter than ``SHORTEST`` tokens.
    """
    if done >= grow:
        return 1
    wanted = 8 >> int(3 * done / grow)
    while wanted > 1 and (length % wanted or length // wanted < SHORTEST):
        wanted //= 2
    return int(wanted)


def join(windows: Tensor, count: int) -> Packed:
    """Windows (B, T + 1) as B * ``count`` sequences of T / ``count`` tokens, each next token a target."""
    rows, length = windows.shape[0], windows.shape[1] - 1
    total, each = rows * length, length // count
    return Packed(
        input_ids=windows[:, :-1].reshape(1, total),
        positions=torch.arange(each, device=windows.device).repeat(rows * count).unsqueeze(0),
        rows=torch.arange(total, device=windows.device),
        targets=windows[:, 1:].reshape(total),
        segments=Segments(0, (each,) * (rows * count)),
        real_tokens=total,
    )


class ScratchTrainer:
    """Reads ``text/corpus`` (and a ``tokenizer``, where a step made one), writes ``model/hf`` in bf16."""

    def __init__(self, options: Scratch) -> None:
        self.options = options

    def train(self, step: Step, *inputs: Any) -> None:
        """Trains, goes on from a checkpoint if there is one, and writes the model with the lowest held-out loss."""
        with training_on(self.options.device) as device:
            self._train(step, device, *inputs)

    def _train(self, step: Step, device: torch.device, corpus: Artifact, tokenizer: Artifact | None) -> None:
        options = self.options
        tokens = prepare(
            step, corpus, tokenizer, vocabulary=options.vocabulary, context=options.context, heldout=options.heldout
        )
        if tokens.train.count <= options.context:
            raise DataError(
                f"the corpus has {tokens.train.count} tokens to learn from, one sequence needs {options.context + 1}",
                where=str(corpus.path),
                hint="more text, or a smaller context",
            )
        shape = self._shape(len(tokens.tokenizer))
        self._tell_shape(step, shape, tokens)
        torch.manual_seed(step.seed)
        model = _model(shape, tokens.tokenizer)
        if options.first_weights == "bigrams" and not checkpoint.exists(step.checkpoints):
            pairs = count_pairs(tokens.train, shape.vocabulary, track=partial(step.track, unit="chunk of tokens"))
            begin_from(pairs, model, track=partial(step.track, unit="iteration"))
        task = ScratchTask(model.to(device), tokens, options, step.checkpoints)
        settings = Settings.of(options, betas=(0.9, 0.95))
        progress = telling(
            step,
            lambda tell: fit(task, settings, seed=step.seed, folder=step.checkpoints, tell=tell),
            showing(step, model, tokens.tokenizer, options.sample),
        )
        step.note(parameters=shape.parameters, layers=shape.layers, width=shape.width, tokens=tokens.train.count)
        step.note(device=device.type)
        task.close()
        model.to(torch.bfloat16).save_pretrained(step.output)
        tokens.tokenizer.save_pretrained(step.output)
        save_curve(progress, step.output / "loss.png")

    def _shape(self, vocabulary: int) -> Shape:
        options = self.options
        if options.parameters:
            count = parse_count(options.parameters)
            return by_parameters(count, vocabulary=vocabulary, context=options.context)
        return by_depth(options.depth, vocabulary=vocabulary, context=options.context)

    def _tell_shape(self, step: Step, shape: Shape, tokens: Tokens) -> None:
        step.notice(
            f"{shape.parameters / 1e6:.1f} million parameters: {shape.layers} layers, width {shape.width}, vocabulary "
            f"{shape.vocabulary}; {tokens.train.count / 1e6:.2f} million tokens of {tokens.documents} documents"
        )
        if shape.vocabulary < self.options.vocabulary:
            step.notice(f"the corpus gives a vocabulary of {shape.vocabulary} only, not {self.options.vocabulary}")


def _model(shape: Shape, tokenizer: Any) -> Any:
    model = fresh_model(shape, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, pad=tokenizer.pad_token_id)
    ends = {*end_of_text(tokenizer), tokenizer.eos_token_id} - {None}
    model.generation_config.eos_token_id = sorted(ends)
    return model
