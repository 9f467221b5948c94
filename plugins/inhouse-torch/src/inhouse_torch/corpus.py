"""From the documents of a corpus to a tokenizer and two rows of tokens: to learn from, and held out.

Everything is streamed, document by document, and made once: a run that was killed finds it again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from inhouse.artifacts import sync_folder
from inhouse.errors import DataError
from inhouse.protocols import Step
from inhouse.values import Artifact

from .bpe import end_of_text, train_tokenizer
from .folders import load_tokenizer
from .shards import Shards, ShardWriter

MANY = 20
"""From so many documents whole ones are held out; of fewer, the end of each."""
_BATCH_CHARACTERS = 1 << 20


@frozen(eq=False)
class Tokens:
    """A tokenizer, and the corpus in its tokens; ``heldout`` may be empty."""

    tokenizer: Any
    train: Shards
    heldout: Shards
    documents: int


def prepare(
    step: Step, corpus: Artifact, tokenizer: Artifact | None, *, vocabulary: int, context: int, heldout: float
) -> Tokens:
    """Reads ``corpus.jsonl``, trains a tokenizer where none is given, and writes the token files.

    They lie in the step's checkpoint folder. Raises ``DataError`` for a corpus without text.
    """
    path, folder = corpus.path / "corpus.jsonl", step.checkpoints / "corpus"
    count = sum(1 for _ in texts(path))
    if not count:
        raise DataError("the corpus has no text to learn from", where=str(path))
    if not folder.is_dir():
        aside = folder.with_name(".corpus.new")
        shutil.rmtree(aside, ignore_errors=True)
        if tokenizer is None:
            told = step.track(texts(path), total=count, unit="document")
            made = train_tokenizer(told, vocabulary, context=context)
        else:
            made = load_tokenizer(tokenizer.path)
        made.save_pretrained(aside / "tokenizer")
        _write(step, path, made, aside, count=count, share=heldout)
        aside.rename(folder)
        sync_folder(folder.parent)
    return Tokens(
        load_tokenizer(folder / "tokenizer"), Shards(folder / "train"), Shards(folder / "heldout"), documents=count
    )


def texts(path: Path) -> Iterator[str]:
    """The texts of ``corpus.jsonl``, one at a time; empty ones are left out. Raises ``DataError`` with the line."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError("this row is no JSON object with text", where=f"{path}:{number}") from error
            if text:
                yield text


def _write(step: Step, path: Path, tokenizer: Any, folder: Path, *, count: int, share: float) -> None:
    end = end_of_text(tokenizer)
    draw = random.Random(step.seed)  # noqa: S311  (a split, not a secret)
    with (
        ShardWriter(folder / "train", len(tokenizer)) as train,
        ShardWriter(folder / "heldout", len(tokenizer)) as heldout,
    ):
        for batch in _batches(step.track(texts(path), total=count, unit="document")):
            for tokens in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                ids = tokens + end
                if count < MANY:
                    cut = len(ids) - int(share * len(ids))
                    train.write(ids[:cut])
                    heldout.write(ids[cut:])
                else:
                    (heldout if draw.random() < share else train).write(ids)


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
