"""What pre-training is measured on: a text, its tokenizer and tokens, and random weights that all begin with."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from inhouse_testing.recording import RecordingStep
from inhouse_torch.corpus import prepare as prepare_corpus
from inhouse_torch.shape import by_depth, fresh_model

from .measure import BenchError

HELDOUT = 0.1
DEPTH = 6


def make_corpus(place: Path, text: Path, *, vocabulary: int, context: int) -> Path:
    """The folder under ``place`` with ``tokenizer``, ``train`` and ``heldout`` (the last tenth of ``text``).

    Made once, by what the trainer `scratch` makes them with; everything in ``place`` is made anew for another
    text. Raises ``BenchError`` where ``text`` is missing.
    """
    if not text.is_file():
        raise BenchError(f"the text to train on is missing: {text}; name another with --data PATH")
    row = json.dumps({"id": "text", "title": "", "text": text.read_text(encoding="utf-8")}) + "\n"
    source = place / "corpus.jsonl"
    if not source.exists() or source.read_text(encoding="utf-8") != row:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        source.write_text(row, encoding="utf-8")
    step: Any = RecordingStep.at(place)
    corpus: Any = SimpleNamespace(path=place)
    tokens = prepare_corpus(step, corpus, None, vocabulary=vocabulary, context=context, heldout=HELDOUT)
    print(
        f"  {text.name}: {len(tokens.tokenizer)} kinds of tokens, {tokens.train.count} tokens to learn from,"
        f" {tokens.heldout.count} held out"
    )
    folder: Path = step.checkpoints / "corpus"
    return folder


def make_weights(folder: Path, seed: int, *, vocabulary: int, context: int, as_gpt2: bool = True) -> None:
    """A model with random weights in fp32.

    What a layer adds to its input begins as in GPT-2 and nanoGPT; without ``as_gpt2`` as the trainer `scratch`
    begins it. All other weights are the same.
    """
    torch.manual_seed(seed)
    model = fresh_model(by_depth(DEPTH, vocabulary=vocabulary, context=context), bos=1, eos=2, pad=0)
    if as_gpt2:
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * DEPTH))
    model.save_pretrained(folder)
