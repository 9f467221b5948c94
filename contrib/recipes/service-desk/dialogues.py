"""A dialogue of the desk: the question, the calls and what they observe, the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import arithmetic
import shop

Card = dict[str, str]
NUMBER_WORDS = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six"}


@dataclass(frozen=True)
class Call:
    """One action with the thought before it; `expected` is how a task names the call."""

    thought: str
    tool: str
    arguments: dict[str, str]
    observation: str
    expected: dict[str, Any]


@dataclass(frozen=True)
class Dialogue:
    """`keys`: groups of strings, one of each group must stand in the answer. No `answer`: handed over."""

    question: str
    calls: tuple[Call, ...]
    thought: str
    answer: str | None
    keys: list[list[str]] = field(default_factory=list)
    cites: list[str] = field(default_factory=list)
    reason: str = ""

    def messages(self) -> list[dict[str, str]]:
        """User and assistant in turns; observations come from the user."""
        turns = [{"role": "user", "content": self.question}]
        for call in self.calls:
            turns.append(_assistant(call.thought, _action(call.tool, call.arguments)))
            turns.append({"role": "user", "content": f"Observation: {call.observation}"})
        handed_over = _action("hand_over", {"reason": self.reason})
        last = handed_over if self.answer is None else f"Final: {self.answer}"
        return [*turns, _assistant(self.thought, last)]

    def row(self, identity: str, kind: str, template: str, *, complete: bool = True) -> dict[str, Any]:
        """A line of train.jsonl or heldout.jsonl; one that is not complete ends with the first action."""
        messages = self.messages() if complete else self.messages()[:2]
        return {"id": identity, "kind": kind, "template": template, "complete": complete, "messages": messages}

    def task(self, identity: str, kind: str) -> dict[str, Any]:
        """A line of tasks.jsonl."""
        return {
            "id": identity,
            "kind": kind,
            "question": self.question,
            "calls": [call.expected for call in self.calls],
            "answer": self.keys,
            "cites": self.cites,
            "hand_over": self.answer is None,
        }


def _assistant(thought: str, act: str) -> dict[str, str]:
    return {"role": "assistant", "content": f"Thought: {thought}\n{act}"}


def _action(tool: str, arguments: dict[str, str]) -> str:
    return f"Action: {tool} {json.dumps(arguments)}"


def find_order(thought: str, order_id: str, card: Card | None) -> Call:
    """The look-up of an order; `card` is what the database holds under the id."""
    arguments = {"order_id": order_id}
    expected = {"tool": "orders", "arguments": arguments}
    return Call(thought, "orders", arguments, shop.observation(card), expected)


def calculate(thought: str, expression: str) -> Call:
    """The calculation of an expression whose value has at most two decimals."""
    result = arithmetic.decimal(arithmetic.value(expression))
    expected = {"tool": "calculator", "value": result}
    return Call(thought, "calculator", {"expression": expression}, result, expected)


def search(thought: str, query: str, article: dict[str, Any]) -> Call:
    """The search that finds the article."""
    expected = {"tool": "search_knowledge", "finds": article["id"]}
    return Call(thought, "search_knowledge", {"query": query}, article_observation(article), expected)


def article_observation(article: dict[str, Any]) -> str:
    """`[id] Title: body`, the whole article being one chunk."""
    return f"[{article['id']}] {article['title']}: {article_body(article)}"


def article_body(article: dict[str, Any]) -> str:
    """The article's facts on one line."""
    return " ".join(fact["text"] for fact in article["fact"])


def order_answer(column: str, order_id: str, card: Card) -> tuple[str, list[list[str]]]:
    """The final answer about a column of an order, and what any right answer contains."""
    item, quantity, value = card["item"], card["quantity"], card[column]
    if value == "none":
        return f"Order {order_id} has no {column}, it is {card['status']}.", [[card["status"]]]
    holds = f"Order {order_id} has {quantity} x {item}."
    answers = {
        "status": (f"The status of order {order_id} is {value}.", [value]),
        "delivery": (f"The delivery date of order {order_id} is {value}.", dates(card["delivery"])),
        "carrier": (f"{value} delivers order {order_id}.", [value]),
        "item": (holds, [value]),
        "quantity": (holds, quantities(quantity, item)),
        "price": (f"One {item} costs ${value}.", amounts(card["price"])),
    }
    answer, key = answers[column]
    return answer, [key]


def quantities(number: str, item: str) -> list[str]:
    """Ways to say how many: `2 x`, `two pieces`, `2 Ridge tents`, `quantity: 2`."""
    units = ("x", item.split(maxsplit=1)[0], "of", "piece", "item", "unit")
    counts = [f"{written} {unit}" for written in (number, NUMBER_WORDS[number]) for unit in units]
    return [*counts, f"quantity is {number}", f"quantity: {number}"]


def amounts(number: str) -> list[str]:
    """Ways to write an amount: `1660.5`, `1660.50`, `1,660.50`."""
    whole, _, cents = number.partition(".")
    written = [number, f"{whole}.{cents:0<2}", f"{whole}.{cents}".rstrip("0").rstrip(".")]
    return list(dict.fromkeys([*written, *(f"{int(whole):,}{text[len(whole) :]}" for text in written)]))


def dates(date: str) -> list[str]:
    """Ways to write a day of a year: `3 May`, `May 3`, `3rd May`, `3rd of May`, `May 3rd`."""
    if date == "none":
        return []
    day, month = date.split()
    endings = {"1": "st", "2": "nd", "3": "rd"}
    ordinal = day + ("th" if day in ("11", "12", "13") else endings.get(day[-1], "th"))
    ordinals = [f"{ordinal} {month}", f"{ordinal} of {month}", f"{month} {ordinal}"]
    return [date, f"{month} {day}", *ordinals]
