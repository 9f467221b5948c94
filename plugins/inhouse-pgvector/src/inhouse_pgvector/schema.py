"""The schema's version and how it gets there: forward only, one process at a time."""

from __future__ import annotations

import psycopg
from psycopg import errors, sql

from inhouse.errors import ResourceError
from inhouse_pgvector.connections import Connection, Server
from inhouse_pgvector.faults import first_line

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # generation: whose vectors these are; null while they are being written, and after a change.
        """
        CREATE TABLE {schema}.collections (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            generation bigint,
            dimension integer NOT NULL,
            metric text NOT NULL,
            m integer NOT NULL,
            ef_construction integer NOT NULL,
            count bigint NOT NULL DEFAULT 0,
            made timestamptz NOT NULL DEFAULT now(),
            named timestamptz,
            used timestamptz NOT NULL DEFAULT now(),
            UNIQUE (generation, dimension, metric, m, ef_construction)
        )
        """,
    ),
)
"""Statements that lead from version n to n + 1. Never change one that was released: append."""

VERSION = len(MIGRATIONS)
INSTALL = "install it there (Debian: postgresql-18-pgvector), then CREATE EXTENSION vector"
MIGRATING = 0x696E686F757365  # "inhouse": the lock for all schemas of a database, since extensions are the database's


def there(connection: Connection, server: Server) -> bool:
    """Whether the schema is as this code needs it. Raises ``ResourceError`` for a newer one."""
    version = _version(connection, server)
    if version > VERSION:
        raise ResourceError(
            f"the tables have version {version}, and this inhouse-pgvector knows {VERSION}",
            where=server.place,
            hint="pip install --upgrade inhouse-pgvector, or another schema",
        )
    return version == VERSION


def missing(connection: Connection, server: Server) -> str | None:
    """Why the server cannot be used, as far as that shows without writing; None when nothing speaks against it."""
    there(connection, server)
    if server.prepare(connection):
        return None
    query = "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = 'vector'"
    found = connection.execute(query).fetchone()
    return None if found else f"{server.place}: the server has no pgvector ({INSTALL})"


def ensure(connection: Connection, server: Server) -> None:
    """Makes the extension and the tables, or brings them up to this code's version.

    Raises ``ResourceError`` where that is not allowed or pgvector is not installed.
    """
    if there(connection, server) and server.prepare(connection):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATING])
        there(connection, server)
        if not server.prepare(connection):
            _make_extension(connection, server)
        schema = sql.Identifier(server.names.schema)
        done = _version(connection, server)
        if done == 0:
            if not _exists(connection, "pg_namespace", "nspname", server.names.schema):
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            connection.execute(
                sql.SQL("CREATE TABLE {} (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())")
                .format(server.names.schema_version)
            )  # fmt: skip
        for number, statements in enumerate(MIGRATIONS[done:], done + 1):
            for each in statements:
                connection.execute(sql.SQL(each).format(schema=schema))
            insert = sql.SQL("INSERT INTO {} (version) VALUES (%s)").format(server.names.schema_version)
            connection.execute(insert, [number])


def _version(connection: Connection, server: Server) -> int:
    """The highest migration that was applied; 0 without tables."""
    query = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = 'schema_version'"
    if connection.execute(query, [server.names.schema]).fetchone() is None:
        return 0
    row = connection.execute(sql.SQL("SELECT max(version) FROM {}").format(server.names.schema_version)).fetchone()
    return int(row[0] or 0) if row else 0


def _exists(connection: Connection, table: str, column: str, name: str) -> bool:
    query = sql.SQL("SELECT 1 FROM pg_catalog.{} WHERE {} = %s")
    found = connection.execute(query.format(sql.Identifier(table), sql.Identifier(column)), [name])
    return found.fetchone() is not None


def _make_extension(connection: Connection, server: Server) -> None:
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION vector")
    except errors.InsufficientPrivilege as error:
        raise ResourceError(
            "the database has no extension vector, and this user may not make it",
            where=server.place,
            hint="as a superuser, in this database: CREATE EXTENSION vector",
        ) from error
    except (errors.FeatureNotSupported, errors.UndefinedFile) as error:
        raise ResourceError(
            f"the server has no pgvector: {first_line(error)}",
            where=server.place,
            hint=INSTALL,
        ) from error
    if not server.prepare(connection):
        raise psycopg.InternalError("CREATE EXTENSION vector made none")
