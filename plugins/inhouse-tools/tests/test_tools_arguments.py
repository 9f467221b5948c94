"""Arguments against a schema."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse.values import Parameter, ToolSchema
from inhouse_tools.arguments import argument_error


def schema(*parameters: Parameter) -> ToolSchema:
    return ToolSchema("tool", "", parameters)


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (Parameter("x"), ["a", "é"], ["", "  ", 3, None, True, ["a"], "a\nb", "\ud800", "x" * 501]),
        (Parameter("x", pattern="[0-9]{5}"), ["48213"], ["4821", "482133", "48213 "]),
        (Parameter("x", "integer"), [3, -1, 0], ["3", 3.0, True, None, 2**63, -(2**63)]),
        (Parameter("x", "number"), [3, 2.5, -1e9], ["3", True, None, float("inf"), float("nan"), 10**400]),
        (Parameter("x", "boolean"), [True, False], [1, 0, "true", None]),
    ],
)
def test_values(parameter: Parameter, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert argument_error(schema(parameter), {"x": value}) is None
    for value in bad:
        assert "x " in (argument_error(schema(parameter), {"x": value}) or "")


def test_names() -> None:
    assert argument_error(schema(), {}) is None
    assert "it takes: none" in (argument_error(schema(), {"x": 1}) or "")
    assert "needs the argument 'y'" in (argument_error(schema(Parameter("x"), Parameter("y")), {"x": "a"}) or "")


@given(st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.text() | st.integers(), st.lists)))
def test_any_arguments_are_judged(arguments: dict[str, object]) -> None:
    argument_error(schema(Parameter("a"), Parameter("b", "number")), arguments)
