"""Whether what a GGUF without any rounding expects next is what transformers expects."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from inhouse.protocols import Engine, Step
from inhouse.values import Artifact, Message, Request
from inhouse_evaluate.divergence import kl
from inhouse_evaluate.models import weight_bytes
from inhouse_gguf.convert import convert, exact_type
from inhouse_transformers import Options
from inhouse_transformers.engine import TransformersRuntime

FOLLOWED = 32
"""Tokens of a greedy answer that the converted model has to follow."""
TIE = 0.05
"""Nats between two tokens that may change places, beside one step of bf16 at the size of the logit: an engine that
computes in 16 bits tells no two logits apart that are closer."""
APART = 0.02
"""Most nats a token between both models: transformers in bf16 was 0.001 from llama.cpp in float32, in float32 0."""
_SMALL = 2 << 30
"""Bytes of 16-bit weights up to which both sides compute in float32: rounding to bf16 on the way moved a logit of a
model that was trained in eight steps by 0.2 nats."""


@frozen
class Answer:
    """Token ids of a prompt and a greedy answer; ``logits`` of the answer's places, (answer, vocabulary)."""

    ids: list[int]
    prompt: int
    logits: NDArray[np.float32]


def truth(step: Step, original: Artifact) -> Engine:
    """``original`` (``model/hf``) in transformers, whichever runtime the recipe has; the caller closes it."""
    options = Options(dtype="float32" if weight_bytes(original.path) < _SMALL else "auto")
    target = step.target
    return TransformersRuntime(options).open(original.path, context=target.context, threads=target.threads)


def answer(engine: Engine, chat: Sequence[Message]) -> Answer:
    """The greedy answer of ``engine``, and what it expected at each place."""
    prompt = engine.render(chat)
    (made,) = engine.generate([Request(prompt=prompt, max_tokens=FOLLOWED)])
    length = len(engine.tokenize(prompt))
    ids = engine.tokenize(prompt + made.text)[: length + FOLLOWED]  # read again, the text may be more tokens
    ids = [*ids, *ids[-1:]]  # one more, so that what follows the answer counts too
    (logits,) = engine.distributions([ids])
    return Answer(ids, length, logits[length - 1 :])


def follow(engine: Engine, answers: Sequence[Answer]) -> tuple[int, list[str]]:
    """How many tokens of the answers ``engine`` (:func:`unrounded`) expects too, and where it expects others."""
    if not answers:
        return 0, []
    every = engine.distributions([each.ids for each in answers])
    found = [logits[each.prompt - 1 :] for each, logits in zip(answers, every, strict=True)]
    followed, wrong = 0, []
    for each, logits in zip(answers, found, strict=True):
        chosen = logits[:, : each.logits.shape[1]].argmax(1)
        gaps = each.logits.max(1) - each.logits[np.arange(len(chosen)), chosen]
        step_of_bf16 = np.exp2(np.floor(np.log2(np.maximum(np.abs(each.logits.max(1)), 1.0))) - 7)
        strayed = [*np.flatnonzero(gaps > TIE + step_of_bf16), len(gaps)][0]
        followed += int(strayed)
        if strayed < len(gaps):
            gap = float(gaps[strayed])
            wrong.append(f"the converted model leaves transformers' answer at token {strayed} (by {gap:.2f} nats)")
    apart = float(np.concatenate([kl(a.logits, b) for a, b in zip(answers, found, strict=True)]).mean())
    if apart > APART:
        wrong.append(f"the converted model is {apart:.3f} nats a token from transformers' (at most {APART})")
    return followed, wrong


@contextmanager
def unrounded(step: Step, original: Artifact) -> Iterator[Engine]:
    """``original`` (``model/hf``) in llama.cpp, with weights that were converted and not rounded."""
    folder = step.checkpoints / "exact"
    folder.mkdir(exist_ok=True)
    kind = "F32" if weight_bytes(original.path) < _SMALL else exact_type(original.path)
    try:
        convert(original.path, folder / "model.gguf", kind, lambda done, total, name: None)
        with step.services.engine(Artifact("model/gguf", folder, "")) as engine:
            yield engine
    finally:
        shutil.rmtree(folder, ignore_errors=True)
