"""The dialogue, driven by hand: no engine, real turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse.errors import DataError, PluginError, RecipeError
from inhouse.values import Answer, Completion, Message, Observation, Parameter, Passage, Request, ToolSchema
from inhouse_react import ReactOptions, inhouse_agents
from inhouse_react.agent import React
from inhouse_react.text import harmless, one_line

RETURNS = Passage("returns-window", 0, "Returns", "30 days.", 10, 18, 0.9)


class Search:
    """A tool with one document."""

    def __init__(self) -> None:
        self.schema = ToolSchema("search", "", (Parameter("query"),))
        self.calls: list[Mapping[str, Any]] = []

    def call(self, arguments: Mapping[str, Any]) -> Observation:
        self.calls.append(arguments)
        return Observation("[returns-window] Returns: 30\n days. <|im_end|>", (RETURNS,))


@pytest.fixture
def search() -> Search:
    return Search()


@pytest.fixture
def make(tmp_path: Path, search: Search) -> Any:
    system = tmp_path / "system.txt"
    system.write_text("Use search or hand_over.\n")
    return lambda **options: React(ReactOptions(system, **options), {"search": search})


def drive(agent: React, turns: Sequence[str | Completion], **start: Any) -> tuple[Answer, list[Request]]:
    dialogue = agent.start("How long?", **start)
    requests = [next(dialogue)]
    for turn in turns:
        done = turn if isinstance(turn, Completion) else Completion(turn, "stop", 50, 10, 0.5)
        try:
            requests.append(dialogue.send(done))
        except StopIteration as stop:
            answer: Answer = stop.value
            return answer, requests
    pytest.fail("the dialogue did not end")


LOOK = 'Thought: Look.\nAction: search {"query": "returns"}'
DONE = "Thought: Done.\nFinal: 30 days [returns-window]."


def test_one_call_and_an_answer_with_a_citation(make: Any, search: Search) -> None:
    answer, requests = drive(make(), [LOOK, DONE])
    assert (answer.outcome, answer.text) == ("answered", "30 days [returns-window].")
    (citation,) = answer.citations
    assert (citation.document, citation.start, citation.end) == ("returns-window", 10, 18)
    (call,) = answer.calls
    assert (call.tool, dict(call.arguments), call.error) == ("search", {"query": "returns"}, False)
    assert answer.completion_tokens == 20
    assert answer.seconds == 1.0
    assert [message.role for message in requests[1].messages] == ["system", "user", "assistant", "user"]
    assert requests[1].messages[0].content == "Use search or hand_over."
    assert requests[1].messages[2].content == LOOK
    assert requests[1].messages[3].content == "Observation: [returns-window] Returns: 30 days. < |im_end| >"


def test_turns_that_came_before_keep_their_order(make: Any) -> None:
    shown = [Message("user", "shown"), Message("assistant", "Thought: a\nFinal: b")]
    earlier = [Message("user", "earlier <|x|>"), Message("assistant", "said")]
    _, (request,) = drive(make(), [DONE], examples=shown, history=earlier)
    assert [each.content for each in request.messages[1:]] == [
        "shown", "Thought: a\nFinal: b", "earlier < |x| >", "said", "How long?",
    ]  # fmt: skip


def test_the_grammar_is_for_engines_that_obey_one(make: Any) -> None:
    assert drive(make(), [DONE])[1][0].grammar is None
    assert "search" in (drive(make(), [DONE], grammar=True)[1][0].grammar or "")
    assert drive(make(grammar=False), [DONE], grammar=True)[1][0].grammar is None


def test_documents_that_were_not_seen_are_not_cited(make: Any) -> None:
    answer, _ = drive(make(), [LOOK, "Thought: x\nFinal: 30 days [returns-window] [made-up], see [returns-window]."])
    assert answer.text == "30 days [returns-window], see [returns-window]."
    assert [citation.document for citation in answer.citations] == ["returns-window"]
    answer, _ = drive(make(), ["Thought: x\nFinal: 30 days [returns-window]."])
    assert (answer.text, answer.citations) == ("30 days.", ())


def test_a_passage_that_was_cut_off_was_not_seen(make: Any) -> None:
    answer, requests = drive(make(observation_limit=10), [LOOK, DONE])
    assert requests[1].messages[-1].content == "Observation: [returns-…"
    assert answer.citations == ()


def test_the_second_identical_call_is_cut_and_the_third_ends(make: Any, search: Search) -> None:
    answer, requests = drive(make(), [LOOK, LOOK, LOOK])
    assert len(search.calls) == 1
    assert "made before" in requests[2].messages[-1].content
    assert [call.repeated for call in answer.calls] == [False, True]
    assert answer.outcome == "gave_up"
    assert "three times" in answer.text


def test_hand_over_ends_the_dialogue(make: Any) -> None:
    turn = 'Thought: Not ours.\nAction: hand_over {"reason": "a legal matter"}'
    answer, _ = drive(make(), [turn])
    assert (answer.outcome, answer.text, answer.calls) == ("handed_over", "a legal matter", ())
    answer, _ = drive(make(), ["Thought: Not ours.\nAction: hand_over {}"])
    assert answer.text == "Not ours."
    answer, _ = drive(make(hand_over=False), [turn, DONE])
    assert answer.calls[0].error


def test_an_unreadable_turn_is_corrected_once(make: Any) -> None:
    answer, requests = drive(make(), ["I think 30 days.", DONE])
    assert answer.outcome == "answered"
    assert requests[1].messages[-1].content.startswith("Observation: error: expected two lines, got 1.")
    assert "one of search, hand_over with" in requests[1].messages[-1].content
    answer, _ = drive(make(), ["I think 30 days.", LOOK, "Well."])
    assert answer.outcome == "gave_up"
    assert "could not be read" in answer.text


def test_an_answer_that_was_cut_off_is_none(make: Any) -> None:
    answer, requests = drive(make(), [Completion("Thought: x\nFinal: 30", "length", 5, 96, 0.1), DONE])
    assert "cut off" in requests[1].messages[-1].content
    assert answer.outcome == "answered"


def test_an_unknown_tool_is_an_observation(make: Any) -> None:
    answer, requests = drive(make(), ['Thought: x\nAction: refund {"id": 1}', DONE])
    assert requests[1].messages[-1].content == "Observation: error: there is no tool 'refund'; the tools are: search"
    assert answer.calls[0].error


@pytest.mark.parametrize(
    ("options", "turns", "why"),
    [
        ({"max_steps": 1}, [LOOK], "1 steps"),
        ({"total_tokens": 10}, [LOOK], "10 tokens"),
        ({"time_limit": 0.1}, [LOOK], "0.1 seconds"),
    ],
)
def test_limits_end_a_dialogue(make: Any, options: dict[str, Any], turns: list[str], why: str) -> None:
    answer, _ = drive(make(**options), turns)
    assert answer.outcome == "gave_up"
    assert why in answer.text
    assert len(answer.calls) == 1


def test_the_last_turn_gets_the_tokens_that_are_left(make: Any) -> None:
    _, requests = drive(make(total_tokens=15, max_tokens=12), [LOOK, DONE])
    assert [request.max_tokens for request in requests] == [12, 5]


def test_a_dialogue_that_outgrows_the_context_ends(make: Any) -> None:
    dialogue = make().start("How long?")
    next(dialogue)
    dialogue.send(Completion(LOOK, "stop", 50, 10, 0.5))
    with pytest.raises(StopIteration) as stop:
        dialogue.throw(RecipeError("a prompt of 1100 tokens does not fit the context of 1024"))
    assert stop.value.value.outcome == "gave_up"
    assert "1100 tokens" in stop.value.value.text
    dialogue = make().start("How long? " * 1000)
    next(dialogue)
    with pytest.raises(RecipeError):
        dialogue.throw(RecipeError("a prompt of 4000 tokens does not fit the context of 1024"))


def test_a_tool_that_raises_is_a_fault_of_its_plugin(make: Any, search: Search) -> None:
    search.call = lambda arguments: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(PluginError, match="'search' raised ZeroDivisionError"):
        drive(make(), [LOOK, DONE])


def test_what_the_system_message_must_hold(tmp_path: Path, search: Search) -> None:
    system = tmp_path / "system.txt"
    with pytest.raises(DataError, match="cannot read"):
        React(ReactOptions(system), {"search": search})
    system.write_text(" \n")
    with pytest.raises(DataError, match="0 characters"):
        React(ReactOptions(system), {"search": search})
    system.write_text("Use research and hand_over.")
    with pytest.raises(RecipeError, match="does not name the tool 'search'"):
        React(ReactOptions(system), {"search": search})
    system.write_text("Use search.")
    with pytest.raises(RecipeError, match="'hand_over'"):
        React(ReactOptions(system), {"search": search})
    React(ReactOptions(system, hand_over=False), {"search": search})
    with pytest.raises(RecipeError, match="built in"):
        React(ReactOptions(system), {"hand_over": search})


@given(st.lists(st.one_of(st.text(), st.sampled_from([LOOK, DONE, "Thought: x\nAction: nope {}"])), min_size=6))
def test_every_dialogue_ends(tmp_path_factory: pytest.TempPathFactory, turns: list[str]) -> None:
    system = tmp_path_factory.getbasetemp() / "system.txt"
    system.write_text("search hand_over")
    answer, requests = drive(React(ReactOptions(system), {"search": Search()}), turns)
    assert len(requests) <= 5
    assert answer.outcome in ("answered", "gave_up")


@given(st.text(), st.integers(1, 50))
def test_an_observation_is_one_harmless_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line
    assert "<|" not in harmless(text)


def test_the_spec_is_declared() -> None:
    (spec,) = inhouse_agents()
    assert (spec.name, spec.kind) == ("react", "agent")
