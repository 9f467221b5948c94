"""Gate ``parity``: the GGUF talks as the model that was tuned, token by token.

What transformers makes of a chat is the measure. Compared with it: the GGUF's own template and vocabulary, the
template of Ollama's Modelfile, and what a GGUF without any rounding expects next.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from inhouse.errors import RecipeError
from inhouse.protocols import Engine, Step
from inhouse.values import Artifact, Message, Request
from inhouse_bundle.chatml import expected
from inhouse_bundle.gguf_file import read_gguf
from inhouse_bundle.modelfile import modelfile
from inhouse_evaluate.divergence import kl
from inhouse_evaluate.loss import label_spans
from inhouse_evaluate.models import weight_bytes
from inhouse_gguf.convert import convert, exact_type
from inhouse_gguf.facts import metadata

from .golden import golden
from .row import Row, judged

FOLLOWED = 32
"""Tokens of a greedy answer that the converted model has to follow."""
TIE = 0.05
"""Nats between two tokens that may change places, beside one step of bf16 at the size of the logit: an engine that
computes in 16 bits tells no two logits apart that are closer."""
APART = 0.02
"""Most nats a token between both models: transformers in bf16 was 0.001 from llama.cpp in float32, in float32 0."""
_SMALL = 2 << 30
"""Bytes of weights up to which the converted model is in float32, so that only one side computes in 16 bits."""
_ANSWERS = 3
_DIALOGUES = 20
_CHANGE = "report this with the model's name: the conversion is at fault"


def parity(step: Step, models: Mapping[str, Artifact], dialogues: Sequence[Sequence[Message]]) -> Row:
    """Compares the quantised model, if it is a GGUF, with the folder it was made from."""
    quantised, original = models["quantized"], models.get("tuned") or models["base"]
    if quantised.kind != "model/gguf":
        return Row("parity", "skipped", f"{quantised.kind} keeps the tokenizer and the template as they are")
    chats = [*golden(), *([*each] for each in dialogues[:_DIALOGUES])]
    with step.services.engine(original) as engine:
        truth = [_tokens(engine, chat) for chat in chats]
        if not any(truth):
            return Row("parity", "skipped", "the model has no chat template")
        ends = _ends(engine, chats)
        fitting = [chat for chat, ids in zip(chats, truth, strict=True) if ids and len(ids) + FOLLOWED < engine.context]
        answers = [_answer(engine, chat) for chat in fitting[:_ANSWERS]]
    file = quantised.path / "model.gguf"
    with step.services.engine(quantised) as engine:
        wrong = _differences(chats, truth, [_tokens(engine, chat) for chat in chats], "the GGUF's template")
        wrong += _differences(chats, truth, _modelfile_tokens(engine, file, chats), "the Modelfile's template")
    wrong += _marks(metadata(file), ends, [ids for ids in truth if ids])
    followed, strayed = _follow(step, original, answers)
    wrong += strayed
    measured = (
        "; ".join(wrong[:3]) or f"{len(chats)} chats give the same tokens, {followed} greedy tokens the same answer"
    )
    return judged("parity", not wrong, measured, _CHANGE, chats=len(chats), followed=followed, wrong=wrong)


def _tokens(engine: Engine, chat: Sequence[Message]) -> list[int] | None:
    """None where the template refuses the chat."""
    try:
        return engine.tokenize(engine.render(chat))
    except RecipeError:
        return None


def _differences(
    chats: Sequence[Sequence[Message]], truth: Sequence[list[int] | None], others: Sequence[list[int] | None], name: str
) -> list[str]:
    found = []
    for chat, wanted, other in zip(chats, truth, others, strict=True):
        if wanted != other:
            said = chat[-1].content[:40]
            place = next((i for i, (a, b) in enumerate(zip(wanted or [], other or [], strict=False)) if a != b), None)
            at = "length" if place is None else f"token {place}"
            found.append(f"{name} differs from transformers at {at} of the chat that ends with {said!r}")
    return found


def _modelfile_tokens(engine: Engine, model: Path, chats: Sequence[Sequence[Message]]) -> list[list[int] | None]:
    """What the template in the Modelfile makes; where there is none, or for a chat whose system message it would put
    there itself, what the GGUF's makes."""
    has_template = "\nTEMPLATE" in modelfile(model, read_gguf(model).chat, context=engine.context, system=None)
    found: list[list[int] | None] = []
    for chat in chats:
        if has_template and chat[0].role == "system":
            turns = tuple((turn.role, turn.content) for turn in chat)
            found.append(engine.tokenize(expected(turns, generate=True)))
        else:
            found.append(_tokens(engine, chat))
    return found


def _ends(engine: Engine, chats: Sequence[Sequence[Message]]) -> set[int]:
    """The tokens that end the assistant's turns."""
    found = set()
    for chat in chats:
        if any(turn.role == "assistant" for turn in chat):
            ids, spans = label_spans(engine, chat)
            found |= {ids[end - 1] for _, end in spans}
    return found


def _marks(told: Mapping[str, Any], ends: set[int], truth: Sequence[list[int]]) -> list[str]:
    """Whether there is never a second BOS, and the token that ends a turn ends generation."""
    wrong = []
    bos = told.get("tokenizer.ggml.bos_token_id")
    if any(ids[:2] == [bos, bos] for ids in truth):
        wrong.append("chats begin with two BOS tokens")
    if any(ids[:1] == [bos] for ids in truth) and told.get("tokenizer.ggml.add_bos_token", False):
        wrong.append("the template writes a BOS and the GGUF says to add another")
    stops = {told.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    if missing := ends - stops:
        tokens = told["tokenizer.ggml.tokens"]
        names = ", ".join(repr(tokens[each]) for each in sorted(missing))
        wrong.append(f"{names} ends a turn and does not end generation in the GGUF")
    return wrong


@frozen
class _Answer:
    """Token ids of a prompt and a greedy answer; ``logits`` of the answer's places, (answer, vocabulary)."""

    ids: list[int]
    prompt: int
    logits: NDArray[np.float32]


def _answer(engine: Engine, chat: Sequence[Message]) -> _Answer:
    prompt = engine.render(chat)
    (made,) = engine.generate([Request(prompt=prompt, max_tokens=FOLLOWED)])
    length = len(engine.tokenize(prompt))
    ids = engine.tokenize(prompt + made.text)[: length + FOLLOWED]  # read again, the text may be more tokens
    ids = [*ids, *ids[-1:]]  # one more, so that what follows the answer counts too
    (logits,) = engine.distributions([ids])
    return _Answer(ids, length, logits[length - 1 :])


def _follow(step: Step, original: Artifact, answers: Sequence[_Answer]) -> tuple[int, list[str]]:
    """How many tokens of the answers an unrounded GGUF of the model expects too, and where it expects others."""
    found = _expected(step, original, answers)
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


def _expected(step: Step, original: Artifact, answers: Sequence[_Answer]) -> list[NDArray[np.float32]]:
    """What llama.cpp expects at the places of the answers, with weights that were converted and not rounded."""
    folder = step.checkpoints / "exact"
    folder.mkdir(exist_ok=True)
    kind = "F32" if weight_bytes(original.path) < _SMALL else exact_type(original.path)
    try:
        convert(original.path, folder / "model.gguf", kind, lambda done, total, name: None)
        with step.services.engine(Artifact("model/gguf", folder, "")) as engine:
            every = engine.distributions([each.ids for each in answers])
            return [logits[each.prompt - 1 :] for each, logits in zip(answers, every, strict=True)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
