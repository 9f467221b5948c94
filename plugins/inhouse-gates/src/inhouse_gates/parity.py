"""Gate ``parity``: the GGUF talks as the model that was tuned, token by token.

What transformers makes of a chat is the measure. Compared with it: the GGUF's own template and vocabulary, the
template of Ollama's Modelfile, what a GGUF without any rounding expects next, and where an answer ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from attrs import frozen

from inhouse.errors import RecipeError
from inhouse.protocols import Engine, Step
from inhouse.values import Artifact, Message
from inhouse_evaluate.loss import label_spans
from inhouse_gguf.facts import metadata

from .follow import FOLLOWED, Answer, answer, follow, truth, unrounded
from .golden import TOOLS, golden, golden_with_tools
from .row import Row, judged
from .stops import Ended, beginnings, end_token, ended, marks, run_on
from .tokens import Ids, differences, through_ollama, tokens, with_tools

_ANSWERS = 3
_DIALOGUES = 20
_LEAST = 20
_CHANGE = "report this with the model's name: the conversion is at fault"


@frozen
class _Truth:
    """What the model that was tuned makes: ids of the chats, and of those for tools, without and with them; the tokens
    that end turns; greedy answers; answers that end. ``context`` is the least in which an answer can be followed."""

    ids: list[Ids]
    plain: list[Ids]
    tools: list[Ids]
    ends: set[int]
    answers: list[Answer]
    ended: list[Ended]
    context: int


def parity(step: Step, models: Mapping[str, Artifact], dialogues: Sequence[Sequence[Message]]) -> Row:
    """Compares the quantised model, if it is a GGUF, with the folder it was made from."""
    quantised, original = models["quantized"], models.get("tuned") or models["base"]
    if quantised.kind != "model/gguf":
        return Row("parity", "skipped", f"{quantised.kind} keeps the tokenizer and the template as they are")
    chats = [*golden(), *([*each] for each in dialogues[:_DIALOGUES])]
    with truth(step, original) as engine:
        if not any(tokens(engine, chat) for chat in chats):
            return Row("parity", "skipped", "the model has no chat template")
        chats += [_without_system(chat) for chat in chats if tokens(engine, chat) is None]
        known = _truth(engine, chats, dialogues)
    file = quantised.path / "model.gguf"
    told = metadata(file)
    with step.services.engine(quantised) as engine:
        wrong = differences(chats, known.ids, [tokens(engine, chat) for chat in chats], "the GGUF's template")
        tools = with_tools(engine, golden_with_tools(), TOOLS, known.plain, known.tools)
        ollama = through_ollama(engine, file, chats, known.ids)
        adds = told.get("tokenizer.ggml.bos_token_id") if told.get("tokenizer.ggml.add_bos_token") else None
        wrong += tools.wrong + ollama.wrong + beginnings(engine, known.ended, adds)
        stops = len(run_on(engine, known.ended)) < len(known.ended)
    # llama.cpp knows some ends of turns by their text: one that was seen to stop does, whatever the keys say
    ends = set[int]() if stops else known.ends
    wrong += marks(told, ends, [ids for ids in known.ids if ids])
    with unrounded(step, original) as engine:
        followed, strayed = follow(engine, known.answers)
        wrong += strayed + run_on(engine, known.ended)
    compared = sum(ids is not None for ids in known.ids)
    wrong += _too_little(known, compared, step.target.context)
    count = compared + tools.chats
    said = [
        f"{count} chats give the same tokens",
        *tools.told,
        *ollama.told,
        f"{followed} greedy tokens the same answer",
    ]
    said.append(f"{len(known.ended)} answers end by themselves" if known.ended else "no answer of the tuned model ends")
    change = _change(known, end_token(told, ends, original.path))
    return judged(
        "parity", not wrong, "; ".join(wrong[:3]) or ", ".join(said), change,
        chats=count, followed=followed, ended=len(known.ended), wrong=wrong,
    )  # fmt: skip


def _truth(engine: Engine, chats: Sequence[Sequence[Message]], dialogues: Sequence[Sequence[Message]]) -> _Truth:
    """Asks the engine of the model that was tuned."""
    ids, takes_tools = [tokens(engine, chat) for chat in chats], "tools" in engine.features
    fitting = [chat for chat, each in zip(chats, ids, strict=True) if each and len(each) + FOLLOWED < engine.context]
    return _Truth(
        ids=ids,
        plain=[tokens(engine, chat) for chat in golden_with_tools()],
        tools=[tokens(engine, chat, TOOLS) for chat in golden_with_tools()] if takes_tools else [],
        ends=_ends(engine, chats),
        answers=[answer(engine, chat) for chat in fitting[:_ANSWERS]],
        ended=ended(engine, dialogues, fitting),
        context=min(len(each) for each in ids if each) + FOLLOWED + 1,
    )


def _too_little(known: _Truth, compared: int, context: int) -> list[str]:
    """What was compared less than the gate stands for."""
    found = []
    if compared < _LEAST:
        found.append(f"the chat template takes only {compared} chats, and {_LEAST} have to give the same tokens")
    if not known.answers:
        found.append(f"no answer was followed: no chat with {FOLLOWED} tokens of one fits a context of {context}")
    return found


def _change(known: _Truth, end: str) -> str:
    """What to change where something is wrong; ``end``: where turns do not end."""
    context = "" if known.answers else f"target.context = {known.context} or more"
    return " and ".join(filter(None, (end, context))) or _CHANGE


def _without_system(chat: Sequence[Message]) -> list[Message]:
    """For templates that refuse system messages."""
    return [turn for turn in chat if turn.role != "system"]


def _ends(engine: Engine, chats: Sequence[Sequence[Message]]) -> set[int]:
    """The tokens that end the assistant's turns."""
    found = set()
    for chat in chats:
        if any(turn.role == "assistant" for turn in chat):
            with suppress(RecipeError):  # a chat that the template refuses
                ids, spans = label_spans(engine, chat)
                found |= {ids[end - 1] for _, end in spans}
    return found
