"""One maker for each kind of dialogue: a template's words and drawn values become a dialogue."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import arithmetic
import shop
from dialogues import Card, Dialogue, amounts, article_body, calculate, find_order, order_answer, search

Group = dict[str, Any]  # a table of a template file
Dress = Callable[[str], str]  # puts words around a question
THINGS = ("mugs", "maps", "socks", "ropes", "lanterns", "bottles", "towels", "cups", "hats", "gloves", "mats")
PERCENTS = (5, 10, 15, 20, 25, 30)


@dataclass
class Desk:
    """What the dialogues of one split draw from. Orders come in turn."""

    rng: random.Random
    cards: dict[str, Card]  # order id to what the tool shows, of this split's orders only
    articles: dict[str, dict[str, Any]]
    unknown_ids: Iterator[str]  # ids that no order has
    first_turn: int = 0  # where the turns of every group begin

    def __post_init__(self) -> None:
        self._turns: dict[str, int] = {}
        self._waiting = list(self.cards)
        self.rng.shuffle(self._waiting)

    def next_value(self, name: str, values: Iterable[str]) -> str:
        """The values of a group in turn."""
        turn = self._turns.get(name, self.first_turn)
        self._turns[name] = turn + 1
        choices = list(values)
        return choices[turn % len(choices)]

    def draw(self, fits: Callable[[Card], bool]) -> tuple[str, Card]:
        """The next order that fits; it goes to the end of the queue."""
        for position, order_id in enumerate(self._waiting):
            if fits(self.cards[order_id]):
                self._waiting.append(self._waiting.pop(position))
                return order_id, self.cards[order_id]
        raise ValueError("no order of this split fits the template")


def order(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """One look-up; `name` is the column asked for, or `unknown` for an id that is not there."""
    if name == "unknown":
        order_id = next(desk.unknown_ids)
        column = group["column_of"].get(template, "status")
        call = find_order(f"Order number given; look up its {column}.", order_id, None)
        answer = f"I cannot find order {order_id}, please check the number."
        return Dialogue(dress(template.format(id=order_id)), (call,), "There is no such order.", answer,
                        [["cannot find", "not find", "no order"]])  # fmt: skip
    statuses = set(shop.STATUSES)
    if name in ("delivery", "carrier"):  # asked before it is there, or of a cancelled order
        statuses = {"cancelled"} if desk.rng.random() < 0.08 else set(shop.TO_COME)
    order_id, card = desk.draw(lambda c: c["status"] in statuses)
    answer, keys = order_answer(name, order_id, card)
    call = find_order(f"Order number given; look up its {name}.", order_id, card)
    return Dialogue(dress(template.format(id=order_id)), (call,), f"The order shows the {name}.", answer, keys)


def policy(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """One search; `group` is an article of which `fact_of[template]` is asked."""
    fact, question = group["fact_of"][template], dress(template)
    call = search("No order number; search the shop's articles.", question, group)
    return Dialogue(question, (call,), *_cited(group), fact["keys"], [name])


def calculation(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """One sum of numbers that the customer gives."""
    values = _draw_until_exact(lambda: _prices(desk.rng, name), group["expression"])
    call = calculate(f"No order number; {group['thought'].format(**values)}", group["expression"].format(**values))
    answer = group["final"].format(value=call.observation, **values)
    question = dress(template.format(things=desk.rng.choice(THINGS), **values))
    return Dialogue(question, (call,), "The result is the answer.", answer, [amounts(call.observation)])


def order_calculation(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """A look-up, then a sum with the order's quantity and price."""
    order_id, card = desk.draw(lambda c: int(c["quantity"]) > (2 if name == "part" else 1))
    seen = {"id": order_id, "quantity": card["quantity"], "price": card["price"]}
    values = seen | _draw_until_exact(lambda: _extras(desk.rng, card), group["expression"], seen)
    calls = (
        find_order(f"Order number given; {group['first'].format(**values)}", order_id, card),
        calculate(group["second"].format(**values), group["expression"].format(**values)),
    )
    result = calls[1].observation
    answer = group["final"].format(value=result, **values)
    return Dialogue(dress(template.format(**values)), calls, "The result is the answer.", answer, [amounts(result)])


def order_policy(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """A look-up, then a search with the order's status, item or carrier in its query."""
    column, choices = group["column"], group["articles"]
    wanted = desk.next_value(name, choices)
    order_id, card = desk.draw(lambda c: c[column].endswith(wanted) and _plausible(name, c))
    value, article = card[column], desk.articles[choices[wanted]]
    calls = (
        find_order(f"Order number given; {group['first']}", order_id, card),
        search(group["second"].format(value=value), group["query"].format(value=value), article),
    )
    question = dress(template.format(id=order_id))
    return Dialogue(question, calls, *_cited(article), article["fact"][0]["keys"], [article["id"]])


def _cited(article: dict[str, Any]) -> tuple[str, str]:
    """The last thought, and the article as it is for an answer: small models copy well and choose badly."""
    return "The article has the answer.", f"{article_body(article)} [{article['id']}]"


def hand_over(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """Out of scope: a person takes over at once."""
    return Dialogue(dress(template), (), f"Out of scope: {group['reason']}.", None, reason=group["reason"])


def no_tool(desk: Desk, name: str, group: Group, template: str, dress: Dress) -> Dialogue:
    """Answered at once; only a question is dressed, a greeting is not."""
    question = dress(template) if template.endswith("?") and name == "number" else template
    return Dialogue(question, (), group["thought"], group["final"], group["key"])


MAKERS: dict[str, Callable[[Desk, str, Group, str, Dress], Dialogue]] = {
    "order": order,
    "policy": policy,
    "calculation": calculation,
    "order+calculation": order_calculation,
    "order+policy": order_policy,
    "hand_over": hand_over,
    "no_tool": no_tool,
}


def _plausible(name: str, card: Card) -> bool:
    """A missed delivery is asked about a parcel on its way, care and warranty only of what was delivered."""
    needed = {"missed": "shipped", "care": "delivered", "warranty": "delivered"}
    return card["status"] == needed.get(name, card["status"])


def _draw_until_exact(
    draw: Callable[[], dict[str, str]], expression: str, seen: dict[str, str] | None = None
) -> dict[str, str]:
    """Draws until the expression's value is positive and has at most two decimals."""
    for _ in range(1000):
        values = draw()
        if arithmetic.in_cents(arithmetic.value(expression.format(**(seen or {}), **values))):
            return values
    raise ValueError(f"no exact value found for {expression}")


def _prices(rng: random.Random, name: str) -> dict[str, str]:
    """Numbers of a calculation: {a} is the larger price, {b} the smaller."""
    a = rng.randint(40, 180) if name in ("subtract", "percent", "divide") else rng.randint(4, 90)
    cents = rng.choice(("", "", ".50", ".90", ".25"))
    b = rng.randint(3, 35)
    return {"n": str(rng.randint(2, 9)), "a": f"{a}{cents}", "b": str(b), "p": str(rng.choice(PERCENTS))}


def _extras(rng: random.Random, card: Card) -> dict[str, str]:
    """Numbers that the customer adds to an order."""
    quantity = int(card["quantity"])
    return {
        "k": str(rng.randint(2, max(2, quantity - 1))),
        "b": str(rng.randint(4, 25)),
        "p": str(rng.choice(PERCENTS)),
        "n": str(rng.randint(2, 6)),
    }


def read_cards(orders: list[shop.Order], database: Any) -> dict[str, Card]:
    """What the `orders` tool shows of each order, by its id."""
    cards = {order.order_id: shop.look_up(database, order.order_id) for order in orders}
    return {order_id: card for order_id, card in cards.items() if card is not None}
