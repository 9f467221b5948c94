"""Exact value of an expression of numbers, + - * / and brackets, written as the calculator tool does."""

from __future__ import annotations

import ast
from fractions import Fraction


def value(expression: str) -> Fraction:
    """Raises ValueError for anything but numbers, the four operations and brackets."""
    return _value(ast.parse(expression, mode="eval").body, expression)


def _value(node: ast.expr, source: str) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(ast.get_source_segment(source, node) or "")
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, source), _value(node.right, source)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    raise ValueError(f"not simple arithmetic: {source}")


def in_cents(number: Fraction) -> bool:
    """Whether the number is positive and needs no more than two decimals."""
    return number > 0 and (number * 100).denominator == 1


def decimal(number: Fraction) -> str:
    """No trailing zeros: `179`, `44.75`. The number must need no more than two decimals."""
    cents = int(number * 100)
    return f"{cents // 100}.{cents % 100:02d}".rstrip("0").rstrip(".")
