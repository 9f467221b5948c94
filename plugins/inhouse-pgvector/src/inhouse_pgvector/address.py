"""Which server is meant, whether it may be reached, and how to name it without its password."""

from __future__ import annotations

import os
import sys

import psycopg
from attrs import field, frozen
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from inhouse.errors import RecipeError, ResourceError
from inhouse_pgvector import VARIABLE

EXAMPLE = "postgresql://USER@HOST/DATABASE"
PASSWORDS = ("password", "sslpassword")
DEFAULTS = {"connect_timeout": "10", "application_name": "inhouse", "client_encoding": "UTF8"}
"""What is asked for where the URL does not say: seconds for one attempt to connect, and our name."""


@frozen
class Address:
    """``conninfo`` is for libpq and may hold a password; ``shown`` is for people and does not."""

    conninfo: str = field(repr=False)
    shown: str


def resolve(url: str) -> Address:
    """The address of a URL or ``key=value`` string, or else of the variable.

    Raises ``RecipeError`` for one that is none, holds a password in the recipe, or leads to another machine while
    the process is sealed off the network; ``ResourceError`` when no database is named at all.
    """
    text = url or os.environ.get(VARIABLE, "")
    where = "pgvector.url" if url else VARIABLE
    if not text:
        raise ResourceError("no database is named", where="pgvector.url", hint=f'url = "{EXAMPLE}", or set {VARIABLE}')
    try:
        given = conninfo_to_dict(text)
    except (psycopg.Error, ValueError):  # what libpq says of it may show the password
        raise RecipeError("is no URL of a PostgreSQL database", where=where, hint=f'"{EXAMPLE}"') from None
    if url and any(given.get(each) for each in PASSWORDS):
        raise RecipeError("holds a password", where=where, hint=f"PGPASSWORD, ~/.pgpass or {VARIABLE}")
    missing = {key: value for key, value in DEFAULTS.items() if key not in given}
    conninfo = make_conninfo(text, **missing)
    found = _as_libpq_reads(conninfo)
    _allowed(found, where)
    return Address(conninfo, _shown(found))


def _as_libpq_reads(conninfo: str) -> dict[str, str]:
    """Every parameter that libpq would connect with, its PG* variables and service files included.

    It connects to nothing: the value of ``sslmode`` is none, at which libpq stops before it looks for a host.
    """
    stopped = pq.PGconn.connect_start(make_conninfo(conninfo, sslmode="stop").encode())
    try:
        return {each.keyword.decode(): each.val.decode() for each in stopped.info if each.val}
    finally:
        stopped.finish()


def _allowed(found: dict[str, str], where: str) -> None:
    """Asks the seal (``inhouse.sealed``) about each host.

    The seal is a Python audit hook, and libpq is C that never passes it: so the event is raised here, as
    ``socket.getaddrinfo`` would raise it. Nobody listens in a process that is not sealed.
    """
    for host in _hosts(found):
        try:
            sys.audit("socket.getaddrinfo", host, found.get("port"), 0, 0, 0)
        except RecipeError as error:
            message = f"the database is on {host}, and the recipe allows no network"
            raise RecipeError(message, where=where, hint=error.hint) from error


def _hosts(found: dict[str, str]) -> list[str]:
    """What is reached over IP; an address goes before a name, and a path (or ``@name``) is a Unix socket."""
    names, numbers = found.get("host", "").split(","), found.get("hostaddr", "").split(",")
    count = max(len(names), len(numbers))
    names, numbers = names + [""] * (count - len(names)), numbers + [""] * (count - len(numbers))
    reached = [number or name for name, number in zip(names, numbers, strict=True)]
    return [each for each in reached if each and not each.startswith(("/", "@"))]


def _shown(found: dict[str, str]) -> str:
    host = found.get("host") or found.get("hostaddr") or "local"
    return f"postgresql://{found.get('user', '')}@{host}:{found.get('port', '')}/{found.get('dbname', '')}"
