"""The service desk's data: format, counts, true observations, no leakage, and a build that repeats."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

DESK = Path(__file__).resolve().parents[2] / "contrib" / "recipes" / "service-desk"
SELECT = "SELECT item, quantity, price, status, carrier, delivery FROM order_cards WHERE order_id = :order_id"
PARAMETER = {
    "orders": "order_id",
    "search_knowledge": "query",
    "calculator": "expression",
    "hand_over": "reason",
}
TOOLS_OF_KIND = {
    "order": ["orders"],
    "policy": ["search_knowledge"],
    "calculation": ["calculator"],
    "order+calculation": ["orders", "calculator"],
    "order+policy": ["orders", "search_knowledge"],
    "hand_over": ["hand_over"],
    "no_tool": [],
}
TASK_COUNTS = {
    "order": 20, "policy": 20, "calculation": 6, "order+calculation": 12, "order+policy": 8, "hand_over": 10,
    "no_tool": 4,
}  # fmt: skip
FRESH_COUNTS = {
    "order": 50, "policy": 50, "calculation": 15, "order+calculation": 30, "order+policy": 20, "hand_over": 25,
    "no_tool": 10,
}  # fmt: skip
TURN = re.compile(r"Thought: [^\n]+\n(?:Action: (?P<tool>\w+) (?P<json>\{.*\})|Final: (?P<final>[^\n]+))")


@cache
def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DESK / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@cache
def articles() -> dict[str, str]:
    """Article id to the observation that finds it."""
    found = {}
    for path in (DESK / "knowledge").glob("*.md"):
        title, body = path.read_text(encoding="utf-8").split("\n\n", 1)
        found[path.stem] = f"[{path.stem}] {title.removeprefix('# ')}: {' '.join(body.split())}"
    return found


@pytest.fixture(scope="module")
def orders() -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(f"{(DESK / 'orders.sqlite').as_uri()}?mode=ro", uri=True)
    yield database
    database.close()


def look_up(database: sqlite3.Connection, order_id: str) -> str:
    cursor = database.execute(SELECT, {"order_id": order_id})
    row = cursor.fetchone()
    if row is None:
        return "no match"
    return "; ".join(f"{column[0]}: {value}" for column, value in zip(cursor.description, row, strict=True))


def compute(expression: str) -> Decimal:
    def value(node: ast.expr) -> Decimal:
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            return left * right if isinstance(node.op, ast.Mult) else left / right
        return Decimal(ast.get_source_segment(expression, node) or "")

    return value(ast.parse(expression, mode="eval").body)


def question(row: dict[str, Any]) -> str:
    return str(row["question"] if "question" in row else row["messages"][0]["content"])


def skeleton(text: str) -> str:
    """The question in lower case with its numbers masked and without punctuation."""
    return " ".join(re.findall(r"[a-z0']+", re.sub(r"\d+(\.\d+)?", "0", text.lower())))


def words(text: str) -> frozenset[str]:
    return frozenset(skeleton(text).split())


def order_ids(row: dict[str, Any]) -> set[str]:
    return set(re.findall(r"\b\d{5}\b", question(row)))


def turns(row: dict[str, Any]) -> list[tuple[re.Match[str], str | None]]:
    """Each assistant turn, matched, with the observation that follows it or None."""
    messages = row["messages"]
    found = []
    for position in range(1, len(messages), 2):
        match = TURN.fullmatch(messages[position]["content"])
        assert match, f"{row['id']}: {messages[position]['content']!r}"
        follows = messages[position + 1]["content"] if position + 1 < len(messages) else None
        found.append((match, follows))
    return found


def test_counts() -> None:
    assert len(articles()) >= 30
    assert len(rows("train")) >= 900
    assert sum(row["complete"] for row in rows("train")) >= 600
    assert 50 <= len(rows("heldout")) <= 80
    assert Counter(task["kind"] for task in rows("tasks")) == TASK_COUNTS
    assert Counter(task["kind"] for task in rows("fresh")) == FRESH_COUNTS
    every = [row["id"] for name in ("train", "heldout", "tasks", "fresh") for row in rows(name)]
    assert len(set(every)) == len(every)


def test_every_beginning_of_training_has_the_same_mix() -> None:
    kinds = [row["kind"] for row in rows("train")]
    whole = Counter(kinds)
    for length in (100, 300, 600, 900):
        part = Counter(kinds[:length])
        for kind, count in whole.items():
            assert abs(part[kind] - count * length / len(kinds)) <= 2


def test_enough_templates_of_each_kind() -> None:
    used = Counter(kind for kind, _ in {(row["kind"], row["template"]) for row in rows("train")})
    assert all(used[kind] >= 40 for kind in TOOLS_OF_KIND if kind != "no_tool")
    assert used["no_tool"] >= 30


def test_few_shot_rows_are_training_rows_of_different_kinds() -> None:
    shots = rows("few_shot")
    assert all(shot in rows("train") for shot in shots)
    assert all(shot["complete"] for shot in shots)
    assert len({shot["kind"] for shot in shots}) == len(shots) == 4
    assert {match["tool"] for shot in shots for match, _ in turns(shot)} - {None} == PARAMETER.keys()


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_roles_alternate_and_calls_fit_the_kind(name: str) -> None:
    for row in rows(name):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        tools = [match["tool"] for match, _ in turns(row) if match["tool"]]
        expected = TOOLS_OF_KIND[row["kind"]]
        assert tools == (expected if row["complete"] else expected[:1]), row["id"]


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_observations_are_what_the_tools_give(name: str, orders: sqlite3.Connection) -> None:
    for row in rows(name):
        for match, follows in turns(row):
            if match["tool"] in (None, "hand_over"):
                assert follows is None, row["id"]
                continue
            arguments = json.loads(match["json"])
            assert list(arguments) == [PARAMETER[match["tool"]]]
            assert match["json"] == json.dumps(arguments)
            if not row["complete"]:
                assert follows is None, row["id"]
                continue
            assert follows is not None
            assert follows.startswith("Observation: ")
            check_observation(match["tool"], arguments, follows.removeprefix("Observation: "), orders, row)


def check_observation(
    tool: str, arguments: dict[str, str], seen: str, orders: sqlite3.Connection, row: dict[str, Any]
) -> None:
    if tool == "orders":
        assert arguments["order_id"] in order_ids(row)
        assert seen == look_up(orders, arguments["order_id"])
    elif tool == "calculator":
        assert Decimal(seen) == compute(arguments["expression"])
        assert "." not in seen or not seen.endswith(("0", "."))
    else:
        assert seen in articles().values()


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_final_answers_say_what_was_observed(name: str) -> None:
    for row in rows(name):
        found = turns(row)
        if row["kind"] in ("hand_over", "no_tool") or not row["complete"]:
            continue
        final, observed = found[-1][0]["final"], found[-2][1]
        assert final
        assert observed
        for number in re.findall(r"\d+(?:\.\d+)?", re.sub(r"\[.*?\]", "", final)):
            whole_number = rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)"
            assert re.search(whole_number, f"{observed} {question(row)}"), row["id"]
        cited = re.findall(r"\[(.*?)\]", final)
        assert cited == re.findall(r"\[(.*?)\]", observed)
        if cited:
            assert final.removesuffix(f" [{cited[0]}]") in observed


@pytest.mark.parametrize("name", ["tasks", "fresh"])
def test_tasks_name_calls_and_facts_that_hold(name: str, orders: sqlite3.Connection) -> None:
    for task in rows(name):
        tools = [call["tool"] for call in task["calls"]]
        expected = [] if task["hand_over"] else TOOLS_OF_KIND[task["kind"]]
        assert tools == expected
        assert task["hand_over"] == (task["kind"] == "hand_over")
        seen = ""
        for call in task["calls"]:
            if call["tool"] == "orders":
                assert call["arguments"]["order_id"] in task["question"]
                found = look_up(orders, call["arguments"]["order_id"])
                seen = found.replace("no match", "cannot find") if name == "fresh" else found
                assert seen != "no match"
            elif call["tool"] == "search_knowledge":
                assert task["cites"] == [call["finds"]]
                seen = articles()[call["finds"]]
            else:
                seen = str(call["value"])
        for group in task["answer"]:
            assert "" not in group
            if task["kind"] != "no_tool":
                assert any(key.lower() in seen.lower() for key in group), task["id"]


def test_sums_of_orders_follow_from_the_order(orders: sqlite3.Connection) -> None:
    for task in [*rows("tasks"), *rows("fresh")]:
        if task["kind"] != "order+calculation":
            continue
        order_id = task["calls"][0]["arguments"]["order_id"]
        quantity, price = orders.execute(
            "SELECT quantity, price FROM order_cards WHERE order_id = ?", (order_id,)
        ).fetchone()
        given = [Decimal(n) for n in re.findall(r"\d+(?:\.\d+)?", task["question"]) if n != order_id]
        total, value = quantity * Decimal(price), Decimal(task["calls"][1]["value"])
        extra = given[0] if given else Decimal(1)
        possible = [total, total - extra, total + extra, total * (100 - extra) / 100, total / extra]
        assert value in [*possible, extra * Decimal(price)], task["id"]


@pytest.mark.parametrize(("name", "most"), [("tasks", 0.6), ("fresh", 0.6), ("heldout", 0.8)])
def test_no_question_of_training_comes_again(name: str, most: float) -> None:
    trained = [question(row) for row in rows("train")]
    skeletons = {skeleton(text) for text in trained}
    bags = {words(text) for text in trained}
    for row in rows(name):
        text = question(row)
        assert text not in trained
        assert skeleton(text) not in skeletons, text
        overlap = max(len(words(text) & bag) / len(words(text) | bag) for bag in bags)
        assert overlap < most, f"{overlap:.2f}: {text}"


def test_tasks_and_heldout_ask_differently() -> None:
    heldout, tasks, fresh = ({skeleton(question(row)) for row in rows(name)} for name in ("heldout", "tasks", "fresh"))
    assert heldout.isdisjoint(tasks)
    assert fresh.isdisjoint(heldout | tasks)
    assert len(fresh) == 200


def test_no_order_is_in_two_splits() -> None:
    splits = [{i for row in rows(name) for i in order_ids(row)} for name in ("train", "heldout", "tasks")]
    assert all(splits)
    assert sum(map(len, splits)) == len(splits[0] | splits[1] | splits[2])


def test_no_training_question_twice() -> None:
    assert len({question(row) for row in rows("train")}) == len(rows("train"))


def test_orders_database(orders: sqlite3.Connection) -> None:
    count, different = orders.execute("SELECT count(*), count(DISTINCT order_id) FROM orders").fetchone()
    assert count == different >= 320
    odd = orders.execute("SELECT order_id FROM orders WHERE order_id NOT GLOB '[1-9][0-9][0-9][0-9][0-9]'")
    assert odd.fetchall() == []


def test_building_again_gives_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(DESK / "build.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.suffix in (".jsonl", ".md"))
    kept = sorted([*DESK.glob("*.jsonl"), *(DESK / "knowledge").glob("*.md")])
    assert made == sorted(path.relative_to(DESK) for path in kept)
    for path in made:
        assert (tmp_path / path).read_bytes() == (DESK / path).read_bytes(), path
    assert dump(tmp_path / "orders.sqlite") == dump(DESK / "orders.sqlite")


def dump(path: Path) -> list[str]:
    database = sqlite3.connect(path)
    lines = list(database.iterdump())
    database.close()
    return lines
