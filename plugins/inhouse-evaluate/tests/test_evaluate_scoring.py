"""When a task is solved."""

from __future__ import annotations

from decimal import Decimal

import pytest
from attrs import evolve

from inhouse.values import Answer, Call, Citation
from inhouse_evaluate.scoring import contains, problems
from inhouse_evaluate.tasks import ExpectedCall, Task

TASK = Task(
    "t", "order+policy", "?",
    (ExpectedCall("orders", {"order_id": "1"}), ExpectedCall("calculator", value=Decimal(179)),
     ExpectedCall("search", finds="returns")),
    (("shipped",), ("3 May", "May 3")), ("returns",),
)  # fmt: skip
CALLS = (
    Call("", "orders", {"order_id": "1"}, "status: shipped"),
    Call("", "calculator", {"expression": "2 * 89.5"}, "179"),
    Call("", "search", {"query": "return"}, "[returns] Returns: 30 days"),
)
GOOD = Answer("Shipped May 3 [returns].", "answered", CALLS, (Citation("returns", "Returns", 0, 1),))


def test_solved() -> None:
    assert problems(TASK, GOOD) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"calls": CALLS[:2]}, "called orders, calculator instead of orders, calculator, search"),
        ({"calls": (*CALLS, CALLS[0])}, "instead of"),
        ({"calls": (CALLS[1], CALLS[0], CALLS[2])}, "instead of"),
        ({"calls": (evolve(CALLS[0], arguments={"order_id": "2"}), *CALLS[1:])}, "orders got"),
        ({"calls": (evolve(CALLS[0], arguments={"order_id": 1}), *CALLS[1:])}, "orders got"),
        ({"calls": (CALLS[0], evolve(CALLS[1], observation="178"), CALLS[2])}, "gave '178' instead of 179"),
        ({"calls": (CALLS[0], evolve(CALLS[1], observation="error: x"), CALLS[2])}, "gave 'error: x'"),
        ({"calls": (*CALLS[:2], evolve(CALLS[2], observation="[other] returns"))}, "did not find [returns]"),
        ({"text": "Shipped."}, "lacks '3 May'"),
        ({"text": "May 3"}, "lacks 'shipped'"),
        ({"citations": ()}, "does not cite [returns]"),
        ({"outcome": "handed_over"}, "should not have been handed over"),
        ({"outcome": "gave_up", "text": "no answer: limits"}, "no answer: limits"),
    ],
)
def test_not_solved(change: dict[str, object], why: str) -> None:
    (problem,) = problems(TASK, evolve(GOOD, **change))
    assert why in problem


def test_hand_over() -> None:
    task = Task("t", "hand_over", "?", (ExpectedCall("hand_over"),), hand_over=True)
    assert problems(task, Answer("legal", "handed_over")) == []
    assert problems(task, Answer("I cannot say", "answered")) == ["should have been handed over"]
    assert len(problems(task, Answer("legal", "handed_over", CALLS))) == 1


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        ("It was SHIPPED today", "shipped", True),
        ("on 13 May", "3 May", False),
        ("on 3  May.", "3 May", True),
        ("costs $718.50.", "718.5", True),
        ("costs 718.55", "718.5", False),
        ("costs $24.00", "24", True),
        ("costs $24.50", "24", False),
        ("costs $240", "24", False),
        ("costs $1,024", "24", False),
        ("costs $2.24", "24", False),
        ("costs 24, or 25", "24", True),
        ("costs 24.", "24", True),
        ("costs $80", "$80", True),
        ("costs $800", "$80", False),
        ("May 31", "May 3", False),
        ("May 3rd", "May 3", True),
        ("12% off", "12%", True),
        ("a+b (c)", "a+b (c)", True),
    ],
)
def test_a_number_has_to_be_that_number(text: str, wanted: str, found: bool) -> None:
    assert contains(text, wanted) is found
