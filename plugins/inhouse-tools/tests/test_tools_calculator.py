"""The calculator: what it can, what it refuses, and that it never breaks."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse.protocols import ToolContext
from inhouse_tools.arithmetic import ArithmeticProblem, calculate
from inhouse_tools.calculator import Calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * 89.5", "179"),
        ("89.5/2", "44.75"),
        ("1 / 3", "0.333333"),
        ("2 / 3", "0.666667"),
        ("0.0000005", "0.000001"),
        ("-0.0000001", "0"),
        ("50 * 20%", "10"),
        ("50 + 10%", "50.1"),
        ("(2 + 3) * -(4 - 1)", "-15"),
        ("2 - 3 - 4", "-5"),
        ("24 / 4 / 2", "3"),
        ("--2", "2"),
        (" .5 + 1.50 ", "2"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3 * 3", "1"),
        ("99999999999999 + 0.01", "99999999999999.01"),
        ("100000000000000000000 + 1 - 100000000000000000000", "1"),
        ("1200", "1200"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "got the end"),
        ("2 +", "got the end"),
        ("2 3", "unexpected '3'"),
        ("2 ** 3", "got '*'"),
        ("1,000 * 2", "thousands separators"),
        ("3,5 * 2", "thousands separators"),
        ("$5 * 2", "unexpected '$'"),
        ("1e9", "unexpected 'e'"),
        ("5.", "unexpected '.'"),
        ("1.2.3", "unexpected '.3'"),
        ("7 % 3", "unexpected '3'"),
        ("5%%", "unexpected '%'"),
        ("(1 + 2", "not closed"),
        ("1 + 2)", "unexpected ')'"),
        ("1 / 0", "division by zero"),
        ("0 / (1 - 1)", "division by zero"),
        ("9" * 60 + " * " + "9" * 50, "too large"),
        ("(" * 21 + "1" + ")" * 21, "too deeply"),
        ("-" * 100 + "1", "too deeply"),
        ("1 + " * 40 + "1", "longer than 120"),
        ("__import__('os')", "unexpected '_'"),
        ("x", "unexpected 'x'"),
        ("٣ + 1", "unexpected"),
        ("2 = 2", "unexpected '='"),
    ],
)
def test_problems_are_said(expression: str, why: str) -> None:
    with pytest.raises(ArithmeticProblem) as problem:
        calculate(expression)
    assert why in str(problem.value)


NUMBER = st.decimals(0, 10_000, places=2).map(str)
EXPRESSION = st.recursive(
    NUMBER,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=5,
).filter(lambda text: len(text) <= 120)


def exact(expression: str) -> Fraction:
    """Python's own reading of the same text, over fractions."""
    import re

    text = re.sub(r"[0-9]+(\.[0-9]+)?", lambda match: f"Fraction('{match[0]}')", expression)
    return Fraction(eval(text, {"Fraction": Fraction}))  # noqa: S307 - our own generated text


@given(EXPRESSION)
def test_agrees_with_exact_fractions(expression: str) -> None:
    try:
        wanted = exact(expression)
    except ZeroDivisionError:
        with pytest.raises(ArithmeticProblem, match="division by zero"):
            calculate(expression)
        return
    if abs(wanted) >= 10**15:
        return
    assert abs(Fraction(calculate(expression)) - wanted) <= Fraction(1, 2 * 10**6)


@given(st.one_of(st.text(max_size=130), st.text("0123456789.+-*/()% ", max_size=125)))
def test_any_text_gives_a_number_or_an_error(text: str) -> None:
    observation = Calculator(None, ToolContext("calculator")).call({"expression": text})
    if observation.error:
        assert observation.text.startswith("error: ")
    else:
        value = Decimal(observation.text)
        assert abs(value) <= 10**15
        assert "e" not in observation.text.lower()
        assert observation.text == "0" or not observation.text.startswith("-0.0000000")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"expression": "2 * 89.5"}, "179"),
        ({"expression": "1 / 0"}, "error: division by zero"),
        ({}, "error: calculator needs the argument 'expression'"),
        ({"expression": 3}, "error: expression must be a string in quotes"),
        ({"expression": "1", "places": 2}, "error: calculator has no argument 'places'; it takes: expression"),
    ],
)
def test_observations(arguments: dict[str, object], text: str) -> None:
    assert Calculator(None, ToolContext("calculator")).call(arguments).text == text
