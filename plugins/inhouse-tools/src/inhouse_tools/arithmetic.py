"""Decimal arithmetic on text: + - * / parentheses and a percent sign after a number. No eval."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

LONGEST = 120  # characters
DEEPEST = 20  # parentheses and signs inside each other
PLACES = 6
LARGEST = Decimal(10) ** 15

# Sums and products of what fits in LONGEST characters are exact in so many digits.
_CONTEXT = Context(prec=2 * LONGEST, traps=[DivisionByZero, InvalidOperation, Overflow])
_SYMBOL = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)|([-+*/()%]))", re.ASCII)
_GROUPED = re.compile(r"[0-9],[0-9]")


class ArithmeticProblem(Exception):
    """The expression cannot be calculated; the message says why."""


def calculate(expression: str) -> str:
    """The value as a plain decimal, at most 6 places, no trailing zeros. Raises ``ArithmeticProblem``.

    ``20%`` is 0.2, so ``50 * 20%`` is 10; there is no remainder operator. Halves are rounded up.
    """
    if len(expression) > LONGEST:
        raise ArithmeticProblem(f"the expression is longer than {LONGEST} characters")
    if _GROUPED.search(expression):
        raise ArithmeticProblem("write numbers without thousands separators, and with a decimal point")
    parser = _Parser(_symbols(expression))
    try:
        value = parser.sum(0)
    except DivisionByZero:
        raise ArithmeticProblem("division by zero") from None
    except InvalidOperation:  # 0 / 0
        raise ArithmeticProblem("division by zero") from None
    parser.expect_end()
    if abs(value) >= LARGEST:
        raise ArithmeticProblem("the result is too large")
    return plain(value)


def plain(value: Decimal) -> str:
    """``value`` rounded to 6 places, without exponent, trailing zeros or a negative zero."""
    rounded = value.quantize(Decimal(1).scaleb(-PLACES), ROUND_HALF_UP, _CONTEXT)
    text = f"{rounded:f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _symbols(expression: str) -> list[str]:
    found = []
    at = 0
    text = expression.rstrip()
    while at < len(text):
        match = _SYMBOL.match(text, at)
        if match is None:
            raise ArithmeticProblem(f"unexpected '{text[at:].lstrip()[:1]}'")
        found.append(match[1] or match[2])
        at = match.end()
    return found


class _Parser:
    """Recursive descent; ``depth`` counts what is open, so that the stack stays small."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = symbols
        self.at = 0

    def peek(self) -> str:
        return self.symbols[self.at] if self.at < len(self.symbols) else ""

    def take(self) -> str:
        symbol = self.peek()
        self.at += 1
        return symbol

    def expect_end(self) -> None:
        if self.peek():
            raise ArithmeticProblem(f"unexpected '{self.peek()}'")

    def sum(self, depth: int) -> Decimal:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = self.take()
            other = self.product(depth)
            value = _CONTEXT.add(value, other) if sign == "+" else _CONTEXT.subtract(value, other)
        return value

    def product(self, depth: int) -> Decimal:
        value = self.factor(depth)
        while self.peek() in ("*", "/"):
            sign = self.take()
            other = self.factor(depth)
            value = _CONTEXT.multiply(value, other) if sign == "*" else _CONTEXT.divide(value, other)
        return value

    def factor(self, depth: int) -> Decimal:
        if depth > DEEPEST:
            raise ArithmeticProblem("the expression is nested too deeply")
        symbol = self.take()
        if symbol in ("+", "-"):
            value = self.factor(depth + 1)
            return value if symbol == "+" else _CONTEXT.minus(value)
        if symbol == "(":
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise ArithmeticProblem("a parenthesis is not closed")
        elif symbol[:1].isdigit() or symbol[:1] == ".":
            value = Decimal(symbol)
        else:
            got = f"'{symbol}'" if symbol else "the end"
            raise ArithmeticProblem(f"expected a number, got {got}")
        if self.peek() == "%":
            self.take()
            value = _CONTEXT.divide(value, Decimal(100))
        return value
