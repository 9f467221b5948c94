"""What of a chat is learned, and what happens at the edges."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from inhouse.errors import DataError
from inhouse_peft.chats import encode, render

CHAT = [
    {"role": "system", "content": "Answer in one line."},
    {"role": "user", "content": "What is 2 and 3?"},
    {"role": "assistant", "content": "Thought: add.\nAction: calculator 2 + 3"},
    {"role": "user", "content": "Observation: 5"},
    {"role": "assistant", "content": "Final: 5"},
]
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' </s>' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
FORGETS = (  # a template that shows the last answer with its thought and earlier ones without
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def learned(tokenizer: Any, template: str | None = None, chat: Any = CHAT, context: int = 1000) -> str:
    made = copy.copy(tokenizer)
    if template:
        made.chat_template = template
    sample, _ = encode(made, chat, context=context, name="x:1")
    return str(made.decode([t for t, learn in zip(sample.ids, sample.learn, strict=True) if learn]))


def test_the_answers_and_their_end_are_learned(tokenizer: Any) -> None:
    assert learned(tokenizer) == "Thought: add.\nAction: calculator 2 + 3<|im_end|>Final: 5<|im_end|>"


def test_templates_without_special_tokens(tokenizer: Any) -> None:
    assert learned(tokenizer, LLAMA2) == " Thought: add.\nAction: calculator 2 + 3 </s> Final: 5 </s>"


def test_templates_that_change_earlier_turns(tokenizer: Any) -> None:
    assert learned(tokenizer, FORGETS) == (
        "Thought: add.\nAction: calculator 2 + 3<|im_end|><think></think>\nFinal: 5<|im_end|>"
    )


def test_the_same_ids_as_rendering_in_one_piece(tokenizer: Any) -> None:
    sample, cut = encode(tokenizer, CHAT, context=1000, name="x:1")
    whole = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert list(sample.ids) == whole[: len(sample.ids)]
    assert not cut
    assert sample.learn[-1]


def test_long_chats_are_cut_at_a_turn_border(tokenizer: Any) -> None:
    whole, _ = encode(tokenizer, CHAT, context=1000, name="x:1")
    sample, cut = encode(tokenizer, CHAT, context=len(whole.ids) - 1, name="x:1")
    assert cut
    assert tokenizer.decode(sample.ids).endswith("calculator 2 + 3<|im_end|>")


def test_a_row_with_nothing_to_learn_is_named(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"chats.jsonl:4.*no assistant turn"):
        encode(tokenizer, CHAT[:2], context=100, name="chats.jsonl:4")
    with pytest.raises(DataError, match=r"chats.jsonl:5.*context of 10 tokens"):
        encode(tokenizer, CHAT, context=10, name="chats.jsonl:5")


def test_a_template_that_refuses_is_named(tokenizer: Any) -> None:
    made = copy.copy(tokenizer)
    made.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(DataError, match=r"x:7.*no system message"):
        render(made, CHAT, name="x:7")


def test_a_template_that_never_ends_is_stopped(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inhouse_peft.chats.SECONDS", 0.3)
    with pytest.raises(DataError, match=r"x:1: .*did not end within 0\.3 seconds"):
        learned(tokenizer, "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
