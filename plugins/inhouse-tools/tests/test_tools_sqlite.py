"""Look-ups in a real database, and the ways out that are closed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from inhouse import options
from inhouse.errors import DataError, RecipeError
from inhouse.protocols import ToolContext
from inhouse_tools import ParameterOptions, SqliteOptions
from inhouse_tools.sqlite import SqliteLookup

QUERY = "SELECT status, total FROM orders WHERE id = :order_id"
ORDER_ID = {"order_id": ParameterOptions(pattern="[0-9]{5}")}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders 100%.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id TEXT, status TEXT, total REAL, note TEXT, picture BLOB)")
        connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?)",
            [("48213", "shipped", 89.0, "two\n lines", b"123"), ("48214", "paid", 0.1, None, None)],
        )
    return path


@pytest.fixture
def look(database: Path) -> Iterator[Any]:
    opened: list[SqliteLookup] = []

    def make(query: str = QUERY, parameters: dict[str, ParameterOptions] = ORDER_ID, **more: Any) -> SqliteLookup:
        tool = SqliteLookup(SqliteOptions(database, query, "An order.", parameters, **more), ToolContext("orders"))
        opened.append(tool)
        return tool

    yield make
    for tool in opened:
        tool.close()


def test_a_row_is_one_line(look: Any) -> None:
    tool = look()
    assert tool.call({"order_id": "48213"}).text == "status: shipped; total: 89"
    assert tool.call({"order_id": "48214"}).text == "status: paid; total: 0.1"
    assert tool.call({"order_id": "11111"}).text == "no match"
    assert (tool.schema.name, tool.schema.description, tool.schema.parameters[0].name) == (
        "orders", "An order.", "order_id",
    )  # fmt: skip


def test_odd_values(look: Any) -> None:
    tool = look("SELECT note AS n, picture AS p FROM orders ORDER BY id", {})
    assert tool.call({}).text == "n: two lines; p: 3 bytes | n: none; p: none"


def test_rows_are_limited(look: Any) -> None:
    tool = look("SELECT id FROM orders ORDER BY id", {}, limit=1)
    assert tool.call({}).text == "id: 48213 | more rows were found"


def test_arguments_are_bound(look: Any) -> None:
    tool = look(parameters={"order_id": ParameterOptions()})
    assert tool.call({"order_id": "x' OR '1'='1"}).text == "no match"


def test_bad_arguments_are_observations(look: Any) -> None:
    tool = look()
    for arguments in ({}, {"order_id": 48213}, {"order_id": "x"}, {"id": "48213"}, {"order_id": "48213", "n": 1}):
        observation = tool.call(arguments)
        assert observation.error
        assert observation.text.startswith("error: ")


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("DELETE FROM orders WHERE id = :order_id", "one SELECT"),
        ("PRAGMA table_info(orders)", "one SELECT"),
        ("ATTACH 'x.sqlite' AS x", "one SELECT"),
        (QUERY + "; DELETE FROM orders", "one statement"),
        ("WITH x AS (SELECT :order_id) DELETE FROM orders", "authorized"),
        ("SELECT load_extension(:order_id)", "authorized"),
        ("SELECT * FROM pragma_table_info(:order_id)", "authorized|prohibited"),
        ("SELECT status FROM order WHERE id = :order_id", "syntax error"),
        ("SELECT status FROM purchases WHERE id = :order_id", "no such table"),
        ("SELECT status FROM orders WHERE id = ?", "Binding|binding|does not work"),
        ("SELECT status FROM orders", "'order_id' is not used"),
        (QUERY + " AND status = :status", "'status' has no entry"),
    ],
)
def test_queries_that_do_not_work_are_refused_at_once(look: Any, query: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        look(query)


def test_patterns_are_checked(look: Any) -> None:
    with pytest.raises(RecipeError, match="not a regular expression"):
        look(parameters={"order_id": ParameterOptions(pattern="[0-9")})
    with pytest.raises(RecipeError, match="only a string"):
        look(parameters={"order_id": ParameterOptions("integer", pattern="[0-9]")})


def test_files_that_are_no_database_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.sqlite"
    with pytest.raises(DataError, match="no such database"):
        SqliteLookup(SqliteOptions(missing, QUERY), ToolContext("orders"))
    assert not missing.exists()
    other = tmp_path / "text.sqlite"
    other.write_text("no database\n" * 100)
    with pytest.raises(DataError, match="not a database"):
        SqliteLookup(SqliteOptions(other, QUERY), ToolContext("orders"))


def test_the_database_does_not_change(look: Any, database: Path) -> None:
    before = database.read_bytes()
    look().call({"order_id": "48213"})
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_a_look_up_that_takes_too_long_is_stopped(look: Any) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    observation = look(endless, {}, time_limit=0.05).call({})
    assert observation.error
    assert observation.text == "error: the look-up took longer than 0.05 seconds"


def test_a_recipe_table_becomes_options(database: Path) -> None:
    table = {
        "database": database.name,
        "query": QUERY,
        "parameters": {"order_id": {"type": "string", "description": "five digits", "pattern": "[0-9]{5}"}},
        "time_limit": 1,
    }
    made = options.build(SqliteOptions, table, folder=database.parent, path="tools.orders.sqlite", where=str)
    assert made.parameters["order_id"].pattern == "[0-9]{5}"
    assert made.database == database
    with pytest.raises(RecipeError):
        options.build(
            SqliteOptions, table | {"limit": 0}, folder=database.parent, path="tools.orders.sqlite", where=str
        )
