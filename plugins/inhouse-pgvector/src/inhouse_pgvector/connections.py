"""Connections to one server: set up for pgvector, pooled, and made again when the server was away."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from inhouse.errors import ResourceError
from inhouse_pgvector import Options, wire
from inhouse_pgvector.address import Address
from inhouse_pgvector.faults import Patience
from inhouse_pgvector.names import Names

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]

OLDEST = (0, 8)  # of pgvector: the first with iterative scans
POOL = "inhouse-pgvector"
POOL_SECONDS = 2.0
"""A pool that has no connection for so long is asked why."""
SCAN_TUPLES = 50_000
"""Nodes that one search of the graph looks at."""


def _is_told_by_us(record: logging.LogRecord) -> bool:
    """Lets pass what psycopg's pools log, but not each vain try of ours: :class:`Patience` says it once."""
    return POOL not in (record.args or ())


logging.getLogger("psycopg.pool").addFilter(_is_told_by_us)


class Server:
    """Where connections come from. Raises ``ResourceError`` for what the user has to mend."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self.options = options
        self.names = Names(options.schema)

    @property
    def place(self) -> str:
        """The server, database and schema for errors."""
        return f"{self.address.shown} (schema {self.options.schema})"

    def connect(self, alive: int | None = None) -> Connection:
        """One connection, ready for use; one that holds the collection ``alive`` as in use while it lives."""
        connection = psycopg.connect(self.address.conninfo, autocommit=True, prepare_threshold=None)
        try:
            self.set_up(connection, alive)
        except BaseException:
            connection.close()
            raise
        return connection

    def patiently(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        """``work`` with a connection of its own; again from the start when the server goes away meanwhile."""
        patient = Patience(self.place, self.options.patience if patience is None else patience)
        while True:
            try:
                with contextlib.closing(self.connect()) as connection:
                    return work(connection)
            except psycopg.Error as error:
                patient.bear(error)

    def pool(self, collection: int) -> "Pool":
        """Connections for the calls of one open collection."""
        return Pool(self, collection)

    def prepare(self, connection: Connection) -> bool:
        """Finds pgvector's types and operators, and says how to search. False where there is no pgvector."""
        options = self.options
        row = connection.execute(
            "SELECT e.extversion, set_config('search_path', 'pg_catalog, ' || quote_ident(n.nspname), false)"
            " FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
            " WHERE e.extname = 'vector'"
        ).fetchone()
        if row is None:
            return False
        if tuple(int(each) for each in row[0].split(".")[:2]) < OLDEST:
            raise ResourceError(
                f"pgvector is {row[0]}, and 0.8 or newer is needed",
                where=self.place,
                hint="install it on the server, then: ALTER EXTENSION vector UPDATE",
            )
        # Without sequential scans the planner takes the graph, also for tables where it thinks that equal.
        settings = {
            "hnsw.ef_search": options.ef_search,
            "hnsw.iterative_scan": "relaxed_order",
            "hnsw.max_scan_tuples": SCAN_TUPLES,
            "hnsw.scan_mem_multiplier": 4,
            "enable_seqscan": "off",
            "jit": "off",
        }
        calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
        values = [str(each) for pair in settings.items() for each in pair]
        connection.execute(f"SELECT '[1]'::vector, {calls}", values)
        return True

    def set_up(self, connection: Connection, alive: int | None = None) -> None:
        """What every connection needs before its first use."""
        connection.adapters.register_dumper(wire.IdArray, wire.IdArrayDumper)
        connection.adapters.register_dumper(wire.NumberArray, wire.NumberArrayDumper)
        self.prepare(connection)
        if alive is not None:
            connection.execute("SELECT pg_advisory_lock_shared(%s)", [self.names.alive(alive)])


class Pool:
    """The connections of one open collection; each of them says that the collection is in use."""

    def __init__(self, server: Server, collection: int) -> None:
        self._server = server
        self._collection = collection
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            server.address.conninfo,
            kwargs={"autocommit": True, "prepare_threshold": None},
            configure=lambda connection: server.set_up(connection, collection),
            check=ConnectionPool.check_connection,
            min_size=1,
            max_size=server.options.connections,
            max_lifetime=float("inf"),  # the last connection must not go before the next is there
            reconnect_timeout=1.0,  # later tries are ours: see run()
            num_workers=1,
            name=POOL,
            open=True,
        )

    def run(self, work: Callable[[Connection], T]) -> T:
        """``work`` with one of the connections; again from the start when the server goes away meanwhile.

        Raises ``PoolClosed`` when the pool is closed before ``work`` has one.
        """
        patient = Patience(self._server.place, self._server.options.patience)
        while True:
            try:
                with self._pool.connection(timeout=POOL_SECONDS) as connection:
                    return work(connection)
            except PoolClosed:
                raise
            except PoolTimeout:
                self._wait(patient)
            except psycopg.Error as error:
                patient.bear(error)
                self._wait(patient)

    def _wait(self, patient: Patience) -> None:
        """Until the server lets one in. A pool only logs why it has no connection, and each of its vain tries; when
        all of them are in use, nothing is wrong."""
        while True:
            try:
                return self._server.connect(self._collection).close()
            except psycopg.Error as error:
                patient.bear(error)

    def close(self) -> None:
        """Closes all connections; those in use, when they are given back."""
        self._pool.close()
