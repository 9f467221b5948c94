"""Reading a turn: strict, and total."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse_react.turn import Action, Final, Unreadable, parse_turn

LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=60).filter(str.strip)
VALUE = st.one_of(st.text(max_size=30), st.integers(), st.booleans(), st.none())


@given(
    LINE, st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True), st.dictionaries(st.text(max_size=10), VALUE)
)
def test_an_action_survives_the_round_trip(thought: str, tool: str, arguments: dict[str, object]) -> None:
    text = f"Thought: {thought}\nAction: {tool} {json.dumps(arguments)}"
    assert parse_turn(text) == Action(thought.strip(), tool, arguments)


@given(LINE, LINE)
def test_a_final_answer_survives_the_round_trip(thought: str, answer: str) -> None:
    text = f"  Thought: {thought}\r\nFinal: {answer}\n"
    assert parse_turn(text) == Final(thought.strip(), answer.strip())


@given(st.one_of(st.text(), st.text('Thought:AcinFl{}"\n [x]', max_size=80)))
def test_any_text_is_a_turn(text: str) -> None:
    assert isinstance(parse_turn(text), (Action, Final, Unreadable))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Final: 3",
        "Thought: x",
        "Thought:\nFinal: 3",
        "Thought: x\nFinal:",
        "Thought: x\n\nFinal: 3",
        "Thought: x\nFinal: 3\nFinal: 4",
        "Final: 3\nThought: x",
        "thought: x\nfinal: 3",
        'Thought: x\nAction: orders{"order_id": "1"}',
        'Thought: x\nAction: orders {"order_id": "1"} {"order_id": "2"}',
        'Thought: x\nAction: orders {"order_id": "1", "order_id": "2"}',
        'Thought: x\nAction: orders {"order_id": "1"',
        "Thought: x\nAction: orders {'order_id': '1'}",
        'Thought: x\nAction: orders {"order_id": NaN}',
        "Thought: x\nAction: orders [1]",
        'Thought: x\nAction: two words {"a": 1}',
        "Thought: x\nAction: orders",
        'Thought: x\nAction: orders {"n": ' + "9" * 5000 + "}",
        'Thought: x\nAction: orders {"n": ' + "[" * 9000 + "]" * 9000 + "}",
        "Thought: x\nFinal: " + "long " * 5000,
    ],
)
def test_anything_else_is_unreadable(text: str) -> None:
    turn = parse_turn(text)
    assert isinstance(turn, Unreadable)
    assert turn.reason
