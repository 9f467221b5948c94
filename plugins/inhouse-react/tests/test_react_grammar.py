"""The grammar, checked with llama.cpp itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inhouse.errors import RecipeError
from inhouse.values import Parameter, ToolSchema
from inhouse_react.grammar import HAND_OVER, build_grammar, check_schemas
from inhouse_react.pattern import pattern_to_gbnf
from inhouse_react.turn import Action, Final, parse_turn

Accepts = Callable[[str, str], bool]

SEARCH = ToolSchema("search_knowledge", "", (Parameter("query"),))
ORDERS = ToolSchema("orders", "", (Parameter("order_id", pattern="[0-9]{5}"),))
EVERYTHING = ToolSchema(
    "everything",
    "",
    (Parameter("n", "number"), Parameter("i", "integer"), Parameter("b", "boolean"), Parameter("s")),
)
NOTHING = ToolSchema("now", "", ())
GRAMMAR = build_grammar([SEARCH, ORDERS, EVERYTHING, NOTHING, HAND_OVER])


@pytest.mark.parametrize(
    "text",
    [
        'Thought: Look it up.\nAction: orders {"order_id": "48213"}',
        'Thought: Ask.\nAction: search_knowledge {"query": "r\\u00fcck \\"gabe\\" \\\\ später"}',
        'Thought: x\nAction: everything {"n": -3.25, "i": 7, "b": false, "s": ""}',
        "Thought: x\nAction: now {}",
        'Thought: Out of scope.\nAction: hand_over {"reason": "legal matter"}',
        "Thought: Done.\nFinal: It costs 3 €, [returns-window] {really}.",
    ],
)
def test_turns_of_the_format_are_accepted_and_readable(accepts: Accepts, text: str) -> None:
    assert accepts(GRAMMAR, text)
    assert isinstance(parse_turn(text), (Action, Final))


@pytest.mark.parametrize(
    "text",
    [
        "Final: 3",
        "Thought: \nFinal: 3",
        "Thought: x\nFinal: ",
        "Thought: x\nFinal: 3\n",
        "Thought: x\nFinal: 3\nThought: y",
        'Thought: x\nAction: orders {"order_id": "4821"}',
        'Thought: x\nAction: orders {"order_id": 48213}',
        'Thought: x\nAction: orders {"order_id":"48213"}',
        'Thought: x\nAction: refunds {"order_id": "48213"}',
        'Thought: x\nAction: everything {"i": 7, "n": 1, "b": true, "s": ""}',
        'Thought: x\nAction: everything {"n": 01, "i": 7, "b": true, "s": ""}',
        'Thought: x\nAction: search_knowledge {"query": "a\nb"}',
        'Thought: x\nAction: search_knowledge {"query": "a\\x"}',
        "Thought: x\nAction: now {} ",
        f"Thought: {'x' * 161}\nFinal: 3",
    ],
)
def test_other_turns_are_not(accepts: Accepts, text: str) -> None:
    assert not accepts(GRAMMAR, text)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), ascii_only=st.booleans())
def test_any_string_can_be_an_argument(accepts: Accepts, query: str, ascii_only: bool) -> None:
    dumped = json.dumps({"query": query}, ensure_ascii=ascii_only)
    if "\x7f" in dumped:  # json leaves DEL as it is, the grammar wants it escaped
        dumped = dumped.replace("\x7f", "\\u007f")
    text = f"Thought: x\nAction: search_knowledge {dumped}"
    assert accepts(GRAMMAR, text)


SIMPLE = [
    ("[0-9]{5}", ["48213"], ["4821", "482133", "4821x"]),
    (r"^\d{4}-\d{2}$", ["2024-05"], ["2024-5", "2024_05"]),
    (r"[A-Z]{2}[-_ ]?\w+", ["AB-c_9", "ABc"], ["AB", "A-c", "AB--c"]),
    (r"(?:red|green|)x", ["redx", "greenx", "x"], ["red", "bluex"]),
    ("red|blue", ["red", "blue"], ["redblue", ""]),
    (r"((a)(b)){2}\.c*", ["abab.", "abab.cc"], ["aabb.", "ab.", "ababxc"]),
    ("[a-cx-]+é", ["a-xé"], ["dé", "a"]),
    (r"a{2,3}b{1,}c?", ["aabc", "aaabb"], ["abc", "aaaab"]),
    ("", [""], ["a"]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), SIMPLE)
def test_simple_patterns_become_part_of_the_grammar(
    accepts: Accepts, pattern: str, good: list[str], bad: list[str]
) -> None:
    expression = pattern_to_gbnf(pattern)
    assert expression is not None
    for text in good:
        assert re.fullmatch(pattern, text)
        assert accepts(f"root ::= {expression}", text)
    for text in bad:
        assert not re.fullmatch(pattern, text)
        assert not accepts(f"root ::= {expression}", text)


@pytest.mark.parametrize(
    "pattern",
    [
        ".*", "[^a]", 'a"b', r"a\\b", r"\s", r"\bx", "(?i)a", "(?=a)b", "(a)\\1", "a*?", "a++", "a{300}",
        "[!-z]", "[]a]", "((a{16}){16}){2}", "a{3,2}", "a{0}", "a{,3}", "(a", "a)", "[a", "*", "\n", "a\\",
        "[z-a]", "[\\d-x]{", "^*", "a$b",
    ],
)  # fmt: skip
def test_other_patterns_are_left_to_the_tool(pattern: str) -> None:
    assert pattern_to_gbnf(pattern) is None


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_translated_pattern_accepts_what_the_expression_matches(accepts: Accepts, data: st.DataObject) -> None:
    atom = st.one_of(st.sampled_from(["a", "7", r"\d", "[a-c0]", r"\w", r"\-", "é"]))
    piece = st.tuples(atom, st.sampled_from(["", "?", "+", "{2}", "{1,3}"])).map("".join)
    pattern = data.draw(
        st.recursive(
            piece,
            lambda inner: st.one_of(
                st.lists(inner, min_size=1, max_size=3).map("".join),
                st.lists(inner, min_size=1, max_size=3).map(lambda items: "(" + "|".join(items) + ")"),
            ),
            max_leaves=5,
        )
    )
    text = data.draw(
        st.one_of(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True), st.text("a7b-c0é", max_size=5))
    )
    expression = pattern_to_gbnf(pattern)
    assert expression is not None
    assert accepts(f"root ::= {expression}", text) == bool(re.fullmatch(pattern, text, re.ASCII))


@given(st.text(max_size=30))
def test_any_pattern_is_translated_or_left_alone(pattern: str) -> None:
    expression = pattern_to_gbnf(pattern)
    assert expression is None or expression.startswith("(")


def test_schemas_that_no_turn_can_hold_are_refused() -> None:
    many = ToolSchema("many", "", tuple(Parameter(f"p{n}") for n in range(9)))
    twice = ToolSchema("twice", "", (Parameter("a"), Parameter("a")))
    for schemas, word in [
        ([ToolSchema("two words", "", ())], "two words"),
        ([many], "parameters"),
        ([twice], "'a'"),
        ([ORDERS] * 25, "25"),
    ]:
        with pytest.raises(RecipeError, match=word):
            check_schemas(schemas)


def test_a_grammar_that_llama_cpp_would_be_slow_with_is_refused() -> None:
    wide = ToolSchema("wide", "", tuple(Parameter(f"p{n}", pattern="[a-z]" * 250) for n in range(8)))
    with pytest.raises(RecipeError, match="characters"):
        build_grammar([wide])


def test_an_agent_without_tools_can_only_answer(accepts: Accepts) -> None:
    grammar = build_grammar([])
    assert accepts(grammar, "Thought: x\nFinal: y")
    assert not accepts(grammar, "Thought: x\nAction: now {}")
