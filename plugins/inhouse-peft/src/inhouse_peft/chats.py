"""Chats as token ids with a mask of what to learn: the assistant's turns and the token that ends them.

The model's own template renders the text. Which part of it the assistant wrote is found by rendering the
chat turn by turn and comparing, so any template will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from jinja2.exceptions import TemplateError

from inhouse.errors import DataError
from inhouse_torch.limit import limit
from inhouse_torch.packing import Sample

SECONDS = 10.0
"""A template that takes longer for one chat never ends."""


@frozen
class Rendered:
    """A chat as text; ``learn`` are the character ranges that the assistant wrote, in order."""

    text: str
    learn: tuple[tuple[int, int], ...]


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, name: str) -> Rendered:
    """The text of ``messages`` and the ranges that the assistant wrote. ``name`` is for errors.

    A range runs from where the template asks the assistant to speak to the end of its turn, less trailing
    white space. Raises ``DataError`` when the template refuses the chat or drops an answer.
    """
    chat = [{"role": message["role"], "content": message["content"]} for message in messages]
    whole = _apply(tokenizer, chat, name)
    learn: list[tuple[int, int]] = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        before = _apply(tokenizer, chat[:number], name, ask=True)
        after = _apply(tokenizer, chat[: number + 1], name).rstrip()
        if whole.startswith(before) and whole.startswith(after):
            learn.append((len(before), len(after)))
        else:
            learn.append(_find(whole, message["content"].strip(), learn[-1][1] if learn else 0, after, name))
    return Rendered(whole, tuple(learn))


def _apply(tokenizer: Any, chat: Sequence[Mapping[str, str]], name: str, *, ask: bool = False) -> str:
    if not chat:
        return ""
    try:
        with limit(SECONDS):
            return str(tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=ask))
    except TimeoutError:
        raise DataError(f"the model's chat template did not end within {SECONDS:g} seconds", where=name) from None
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"the model's chat template does not take this chat: {error}", where=name) from error


def _find(whole: str, content: str, begin: int, after: str, name: str) -> tuple[int, int]:
    """Where a template shows a turn differently once others follow: the content itself and what ends it."""
    start = whole.find(content, begin) if content else -1
    if start < 0:
        raise DataError(f"the chat template drops or rewrites the answer {content[:40]!r}", where=name)
    end = start + len(content)
    closing = after[after.rfind(content) + len(content) :]
    return start, end + (len(closing) if whole.startswith(closing, end) else 0)


def encode(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, context: int, name: str) -> tuple[Sample, bool]:
    """One chat as a :class:`Sample` of at most ``context`` tokens, and whether turns were cut to fit.

    It is cut after the last whole turn of the assistant that fits. Raises ``DataError``, naming the row,
    when nothing is left to learn, and when the text would begin with two BOS tokens.
    """
    rendered = render(tokenizer, messages, name=name)
    if not rendered.learn:
        raise DataError("there is no assistant turn to learn from", where=name)
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        raise DataError("the chat template writes the BOS token twice", where=name)
    learn = _mask(offsets, rendered.learn)
    end = max((i for i, wanted in enumerate(learn) if wanted), default=-1) + 1
    cut = end > context
    if cut:
        ends = [_last_token(offsets, stop) + 1 for _, stop in rendered.learn]
        end = max((stop for stop in ends if stop <= context), default=0)
    sample = Sample(tuple(ids[:end]), tuple(learn[:end]), name)
    if sample.targets == 0:
        reason = f"no assistant turn fits into the context of {context} tokens" if cut else "every answer is empty"
        raise DataError(reason, where=name, hint="raise context, or shorten or remove the row")
    return sample, cut


def _mask(offsets: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]) -> list[bool]:
    """A token is learned when its last character lies in a range."""
    mask, number = [], 0
    for _, end in offsets:
        while number < len(ranges) and end > ranges[number][1]:
            number += 1
        mask.append(number < len(ranges) and end > ranges[number][0])
    return mask


def _last_token(offsets: Sequence[tuple[int, int]], stop: int) -> int:
    return max((i for i, (_, end) in enumerate(offsets) if end <= stop), default=-1)
