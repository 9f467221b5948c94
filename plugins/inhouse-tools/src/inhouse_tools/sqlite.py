"""The tool ``sqlite``: one fixed query, arguments bound, a database that cannot be written."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from inhouse.errors import DataError, RecipeError
from inhouse.protocols import ToolContext
from inhouse.values import Json, Observation, Parameter, ToolSchema

from . import SqliteOptions
from .arguments import argument_error

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FUNCTIONS_OUTSIDE = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
_INSTRUCTIONS = 2_000  # of SQLite's virtual machine between two looks at the clock
_LONGEST_VALUE = 1 << 20  # bytes


class _Asked(dict[str, None]):
    """Bound in place of arguments: keeps the names that SQLite asks for."""

    def __missing__(self, name: str) -> None:
        self[name] = None


class SqliteLookup:
    """A look-up declared in the recipe. Raises ``DataError`` or ``RecipeError`` when it cannot work.

    The file is opened with ``immutable=1``: nobody may change it while it is open, and a write-ahead log
    beside it is not read.
    """

    def __init__(self, options: SqliteOptions, context: ToolContext) -> None:
        self.options = options
        self.where = f"tools.{context.name}"
        self.schema = ToolSchema(
            context.name,
            options.description,
            tuple(Parameter(name, p.type, p.description, p.pattern) for name, p in options.parameters.items()),
        )
        self._check_patterns()
        self._deadline = 0.0
        self._lock = threading.Lock()  # one connection, and a server calls from several threads
        self._database = _open(options.database)
        self._database.set_progress_handler(self._too_late, _INSTRUCTIONS)
        self._check_query()

    def call(self, arguments: Mapping[str, Json]) -> Observation:
        """``column: value; column: value``, rows joined by `` | ``; ``no match`` when there is no row."""
        problem = argument_error(self.schema, arguments)
        if problem is not None:
            return Observation(f"error: {problem}", error=True)
        with self._lock:
            self._deadline = time.monotonic() + self.options.time_limit
            try:
                cursor = self._database.execute(self.options.query, dict(arguments))
                columns = [column[0] for column in cursor.description]
                rows = cursor.fetchmany(self.options.limit + 1)
                cursor.close()
            except sqlite3.Error as error:
                return Observation(f"error: {self._failure(error)}", error=True)
        if not rows:
            return Observation("no match")
        shown = [_row(columns, row) for row in rows[: self.options.limit]]
        return Observation(" | ".join(shown + ["more rows were found"] * (len(rows) > self.options.limit)))

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _too_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _failure(self, error: sqlite3.Error) -> str:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return f"the look-up took longer than {self.options.time_limit:g} seconds"
        return f"the look-up failed ({error})"

    def _check_patterns(self) -> None:
        for parameter in self.schema.parameters:
            if parameter.pattern is None:
                continue
            where = f"{self.where}.parameters.{parameter.name}.pattern"
            if parameter.type != "string":
                raise RecipeError("only a string can have a pattern", where=where)
            try:
                re.compile(parameter.pattern)
            except re.error as error:
                raise RecipeError(f"not a regular expression: {error}", where=where) from error

    def _check_query(self) -> None:
        """Compiles the query without running it, and compares its parameters with the declared ones."""
        where = f"{self.where}.query"
        if not re.match(r"\s*(SELECT|WITH)\b", self.options.query, re.IGNORECASE):
            raise RecipeError("the query must be one SELECT", where=where)
        asked = _Asked()
        self._deadline = time.monotonic() + 60
        try:
            self._database.execute(f"EXPLAIN {self.options.query}", asked).close()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise RecipeError(
                f"the query does not work: {error}",
                where=where,
                hint="one SELECT that only reads, with :named parameters",
            ) from error
        declared = set(self.options.parameters)
        for name in sorted(set(asked) ^ declared):
            problem = "is not used in the query" if name in declared else "has no entry in parameters"
            raise RecipeError(f"the parameter '{name}' {problem}", where=where)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise DataError("there is no such database", where=str(path), hint="name an SQLite file in `database`")
    address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    database = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.execute("SELECT count(*) FROM sqlite_master").close()
    except sqlite3.Error as error:
        database.close()
        raise DataError(f"not a database that can be read: {error}", where=str(path)) from error
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.set_authorizer(_authorize)
    return database


def _authorize(action: int, first: str | None, second: str | None, *where: str | None) -> int:
    if action not in _READS or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS_OUTSIDE):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _row(columns: list[str], row: tuple[object, ...]) -> str:
    return "; ".join(f"{column}: {_shown(value)}" for column, value in zip(columns, row, strict=True))


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return " ".join(str(value).split())
