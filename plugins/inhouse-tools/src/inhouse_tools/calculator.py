"""The tool ``calculator``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inhouse.protocols import ToolContext
from inhouse.values import Json, Observation, Parameter, ToolSchema

from .arguments import argument_error
from .arithmetic import ArithmeticProblem, calculate


class Calculator:
    """Calculates one expression: ``2 * 89.5`` gives ``179``."""

    def __init__(self, options: Any, context: ToolContext) -> None:
        self.schema = ToolSchema(
            context.name,
            "Calculates with decimal numbers: + - * / ( ) and % after a number.",
            (Parameter("expression", description="such as 2 * 89.5"),),
        )

    def call(self, arguments: Mapping[str, Json]) -> Observation:
        """The value, or ``error: <why>``."""
        problem = argument_error(self.schema, arguments)
        if problem is not None:
            return Observation(f"error: {problem}", error=True)
        try:
            return Observation(calculate(arguments["expression"]))
        except ArithmeticProblem as error:
            return Observation(f"error: {error}", error=True)
