"""Checks a call's arguments against the tool's schema; what is wrong is written for the model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from inhouse.values import Json, Parameter, ToolSchema

LONGEST = 500  # characters of a string argument


def argument_error(schema: ToolSchema, arguments: Mapping[str, Json]) -> str | None:
    """The first thing wrong with ``arguments``, or None. All parameters are required, no other is allowed."""
    names = [parameter.name for parameter in schema.parameters]
    for name in arguments:
        if name not in names:
            expected = ", ".join(names) or "none"
            return f"{schema.name} has no argument '{name[:40]}'; it takes: {expected}"
    for parameter in schema.parameters:
        if parameter.name not in arguments:
            return f"{schema.name} needs the argument '{parameter.name}'"
        problem = _value_error(parameter, arguments[parameter.name])
        if problem is not None:
            return f"{parameter.name} {problem}"
    return None


def _value_error(parameter: Parameter, value: Json) -> str | None:
    if parameter.type == "string":
        return _string_error(parameter, value)
    if parameter.type == "boolean":
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"must be {'an integer' if parameter.type == 'integer' else 'a number'}, without quotes"
    if parameter.type == "integer" and not isinstance(value, int):
        return "must be an integer"
    if (isinstance(value, float) and not math.isfinite(value)) or abs(value) >= 2**63:
        return "is too large"
    return None


def _string_error(parameter: Parameter, value: Json) -> str | None:
    if not isinstance(value, str):
        return "must be a string in quotes"
    if not value.strip():
        return "is empty"
    if len(value) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if any(char < " " or "\ud800" <= char <= "\udfff" for char in value):
        return "has characters that cannot be used"
    if parameter.pattern is not None and not re.fullmatch(parameter.pattern, value):
        return f"does not look right: '{value[:60]}' does not match {parameter.pattern}"
    return None
