"""The orders of the shop: made from a seed, kept in SQLite, and read back as the recipe's tool does."""

from __future__ import annotations

import datetime
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

# The recipe's `orders` tool runs this very query.
SELECT = "SELECT item, quantity, price, status, carrier, delivery FROM order_cards WHERE order_id = :order_id"

ITEMS = {  # item: unit prices in dollars (sizes and years differ)
    "Ridge tent": ("189", "214", "239.50"),
    "Dune tent": ("129", "145", "152.50"),
    "Harbor tent": ("265", "279", "310"),
    "Summit backpack": ("96", "118", "124.50"),
    "Canyon backpack": ("58", "64.50", "73"),
    "Ember stove": ("42", "47.50", "55"),
    "Comet stove": ("68", "71", "79.50"),
    "Storm jacket": ("134", "148.50", "156"),
    "Meadow jacket": ("82", "87", "93.50"),
    "Boulder boots": ("112", "126", "137.50"),
    "Forest boots": ("89", "94.50", "98"),
    "Beacon headlamp": ("24", "27.50", "36"),
    "Comet headlamp": ("39", "44", "46.50"),
    "Winter sleeping bag": ("157", "163", "178.50"),
    "Summer sleeping bag": ("53", "61", "66.50"),
    "River bottle": ("12", "14.50", "17"),
    "Cedar hammock": ("34", "38", "41.50"),
    "Alpine rope": ("77", "84.50", "91"),
    "Trail poles": ("48", "52", "59.50"),
    "Camp lantern": ("19", "21.50", "26"),
}
STATUSES = {"shipped": 9, "processing": 6, "delivered": 8, "cancelled": 3, "returned": 3, "on hold": 2}
TO_COME = ("shipped", "processing", "on hold")  # not delivered yet
CARRIERS = ("Norpost", "Velopak", "Bluevan")
CUSTOMERS = ("A. Novak", "B. Okafor", "C. Lind", "D. Moreau", "E. Tanaka", "F. Costa", "G. Weber", "H. Singh")
TODAY = datetime.date(2025, 5, 14)  # the day the desk answers on

SCHEMA = """
CREATE TABLE orders (
    order_id TEXT PRIMARY KEY, customer TEXT NOT NULL, item TEXT NOT NULL, quantity INTEGER NOT NULL,
    unit_price_cents INTEGER NOT NULL, status TEXT NOT NULL, ordered_on TEXT NOT NULL,
    carrier TEXT, delivery_on TEXT
);
CREATE TABLE months (number TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE VIEW order_cards AS
SELECT order_id, item, quantity,
    CASE WHEN unit_price_cents % 100 = 0 THEN CAST(unit_price_cents / 100 AS TEXT)
         ELSE printf('%d.%02d', unit_price_cents / 100, unit_price_cents % 100) END AS price,
    status, COALESCE(carrier, 'none') AS carrier,
    COALESCE(CAST(strftime('%d', delivery_on) AS INTEGER) || ' ' || name, 'none') AS delivery
FROM orders LEFT JOIN months ON number = strftime('%m', delivery_on);
"""


@dataclass(frozen=True)
class Order:
    """A row of `orders`; `price` in dollars as the view shows it, dates ISO, None where cancelled."""

    order_id: str
    customer: str
    item: str
    quantity: int
    price: str
    status: str
    ordered_on: str
    carrier: str | None
    delivery_on: str | None


def make_orders(rng: random.Random, count: int) -> list[Order]:
    """`count` orders with ids of five digits, all different, in the order of their making."""
    ids = [str(number) for number in rng.sample(range(10000, 100000), count)]
    return [_make_order(rng, order_id) for order_id in ids]


def _make_order(rng: random.Random, order_id: str) -> Order:
    item = rng.choice(sorted(ITEMS))
    status = rng.choices(list(STATUSES), list(STATUSES.values()))[0]
    ordered, delivery = _dates(rng, status)
    gone = status == "cancelled"
    return Order(
        order_id=order_id,
        customer=rng.choice(CUSTOMERS),
        item=item,
        quantity=rng.choices((1, 2, 3, 4, 5, 6), (3, 5, 4, 3, 2, 2))[0],
        price=rng.choice(ITEMS[item]),
        status=status,
        ordered_on=ordered.isoformat(),
        carrier=None if gone else rng.choice(CARRIERS),
        delivery_on=None if gone else delivery.isoformat(),
    )


def _dates(rng: random.Random, status: str) -> tuple[datetime.date, datetime.date]:
    """Day of the order and day of its delivery, past or to come as the status says."""
    days = rng.randint(1, 24) if status in TO_COME else -rng.randint(3, 60)
    delivery = TODAY + datetime.timedelta(days=days)
    ordered = min(TODAY, delivery - datetime.timedelta(days=rng.randint(2, 9)))
    return ordered, delivery


def write_database(orders: list[Order], path: Path) -> None:
    """A new SQLite file at `path` with the orders, sorted by id, and the view that the desk reads."""
    path.unlink(missing_ok=True)
    months = ("January", "February", "March", "April", "May", "June")
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
        database.executemany(
            "INSERT INTO months VALUES (?, ?)", [(f"{n:02d}", name) for n, name in enumerate(months, 1)]
        )
        database.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    o.order_id,
                    o.customer,
                    o.item,
                    o.quantity,
                    _cents(o.price),
                    o.status,
                    o.ordered_on,
                    o.carrier,
                    o.delivery_on,
                )
                for o in sorted(orders, key=lambda o: o.order_id)
            ],
        )
    database.close()


def _cents(price: str) -> int:
    dollars, _, cents = price.partition(".")
    return int(dollars) * 100 + int(cents or 0)


def look_up(database: sqlite3.Connection, order_id: str) -> dict[str, str] | None:
    """The row that SELECT finds, column name to text, or None when there is no such order."""
    cursor = database.execute(SELECT, {"order_id": order_id})
    row = cursor.fetchone()
    if row is None:
        return None
    return {column[0]: str(value) for column, value in zip(cursor.description, row, strict=True)}


def observation(card: dict[str, str] | None) -> str:
    """What the tool answers: `column: value; column: value`, or `no match`."""
    return "; ".join(f"{column}: {value}" for column, value in card.items()) if card else "no match"
