"""The vector store: one open collection, found by its generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

from inhouse.errors import InhouseError, ResourceError
from inhouse.protocols import Matrix
from inhouse_pgvector import Options

if TYPE_CHECKING:
    from inhouse_pgvector.connections import Connection, Server
    from inhouse_pgvector.opened import Opened

T = TypeVar("T")

LARGEST_DIMENSION = 2_000
"""What pgvector indexes as float32 (HNSW_MAX_DIM, src/hnsw.h)."""


class PgvectorStore:
    """A :class:`inhouse.protocols.VectorStore` in PostgreSQL; cosine similarity; ids in [1, 2^48).

    Call :meth:`open` first. Every method may be called from any thread, and each is one transaction: when the server
    goes away it is done again, for up to ``patience`` seconds, then ``ResourceError``. Vectors need no unit length;
    NaN and infinity raise ``DataError``, shapes and ids that do not fit ``ValueError``, before anything is written.

    A collection is shared by all who open its generation. A change is seen by all of them at once, and takes the
    generation away until :meth:`flush` gives it the next: until then :meth:`open` says False.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._changing = RLock()  # held while another collection is opened, built or named
        self._server: Server | None = None
        self._current: Opened | None = None  # none: an empty index, which is in no table yet
        self._failure: InhouseError | None = None  # why the index is empty, where a rebuild could not fill it
        self._dimension = 0

    def probe(self) -> str | None:
        """Why it cannot run here, or None. Asks the server once, without waiting for one that is away."""
        try:
            from inhouse_pgvector import schema
        except ImportError as error:
            return f"{error}; pip install 'psycopg[binary]' psycopg-pool numpy"
        try:
            server = self._reached()
            return server.patiently(lambda connection: schema.missing(connection, server), patience=0)
        except InhouseError as error:
            return f"{error.where}: {error.message}" + (f" (try: {error.hint})" if error.hint else "")

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        """Opens the collection of ``generation``; the server has it, so ``folder`` is not looked at.

        False, and an empty index, when there is none of that generation, dimension and build options:
        :meth:`rebuild` then. Raises ``ValueError`` for a dimension that pgvector cannot index.
        """
        from inhouse_pgvector import opened, schema
        from inhouse_pgvector.catalogue import Shape, find

        if not 1 <= dimension <= LARGEST_DIMENSION:
            raise ValueError(f"dimension {dimension}: pgvector indexes 1 to {LARGEST_DIMENSION}")
        with self._changing:
            self.close()
            server = self._reached()
            shape = Shape.of(self.options, dimension)

            def found(connection: Connection) -> Opened | None:
                if not schema.there(connection, server):
                    return None
                collection = find(connection, server.names, shape, generation)
                return opened.join(server, collection, generation) if collection is not None else None

            self._current = server.patiently(found)
            self._dimension, self._server = dimension, server
            return self._current is not None

    def rebuild(self, ids: Sequence[int], vectors: Matrix, *, generation: int) -> None:
        """Makes a collection of these vectors, durably; the old one answers searches until it is there.

        Where another process rebuilds the same generation at that time, waits for it and shares what it made.
        """
        from inhouse_pgvector import opened, schema
        from inhouse_pgvector.build import Build
        from inhouse_pgvector.catalogue import Shape
        from inhouse_vectors.vectors import checked, unit

        with self._changing:
            server, before = self._opened(), self._current
            rows = unit(vectors, self._dimension)
            keys = checked(ids, len(rows))
            instead_of = (before.collection, before.generation) if before and before.generation is not None else None
            shape = Shape.of(self.options, self._dimension)
            build = Build(server, shape, generation, keys, rows, instead_of)

            def built(connection: Connection) -> Opened:
                schema.ensure(connection, server)
                made = opened.join(server, build.attempt(connection), generation)
                if made is None:
                    raise ResourceError("the new collection was dropped at once", where=server.place)
                return made

            try:
                self._swap(server.patiently(built))
            except InhouseError as error:
                self._failure = error
                raise
            self._sweep(server)

    def add(self, ids: Sequence[int], vectors: Matrix) -> None:
        """Adds vectors, durably; an id that is there is replaced."""
        from inhouse_pgvector import changes
        from inhouse_vectors.vectors import checked, unit

        server = self._opened()
        rows = unit(vectors, self._dimension)
        keys = checked(ids, len(rows))
        if len(keys):
            self._change(lambda at, connection: changes.add(connection, server.names, at, keys, rows), len(keys))

    def delete(self, ids: Sequence[int]) -> None:
        """Forgets ids, durably; unknown ones are passed over."""
        from inhouse_pgvector import changes, wire

        server = self._opened()
        keys = wire.known(ids)
        if len(keys) and self._current is not None:
            self._change(lambda at, connection: changes.delete(connection, server.names, at, keys), 0)

    def search(self, vector: Matrix, k: int, *, among: Sequence[int] | None = None) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity rounded to 6 digits), best first, equal ones by id.

        Fewer than k only when fewer are there, or among the allowed. Up to ``exact_below`` vectors that are left are
        compared one by one; among more the graph is searched, and what it does not find is looked for exactly.
        """
        from inhouse_pgvector import wire
        from inhouse_pgvector.search import nearest
        from inhouse_vectors.vectors import one

        server = self._opened()
        query = one(vector, self._dimension)
        allowed = None if among is None else wire.known(among)

        def found(opened: Opened, connection: Connection) -> list[tuple[int, float]]:
            table, below = server.names.vectors(opened.collection), self.options.exact_below
            return nearest(connection, table, query, k, allowed, rows=opened.rows, exact_below=below)

        return self._with_current(found, [])

    def count(self) -> int:
        """How many vectors can be found."""
        from inhouse_pgvector.catalogue import rows_of

        server = self._opened()

        def counted(opened: Opened, connection: Connection) -> int:
            opened.rows = rows_of(connection, server.names, opened.collection)
            return opened.rows

        return self._with_current(counted, 0)

    def flush(self, *, generation: int) -> None:
        """Makes the open collection that of ``generation``, in one transaction."""
        from inhouse_pgvector import catalogue

        with self._changing:
            server = self._opened()
            current = self._current or self._begin()
            shape = catalogue.Shape.of(self.options, self._dimension)
            current.rows = current.run(
                lambda connection: catalogue.name(
                    connection,
                    server.names,
                    current.collection,
                    shape,
                    generation,
                )
            )
            current.generation = generation

    def close(self) -> None:
        """Gives the connections back to the server; a change that was not flushed is gone."""
        with self._changing:
            self._swap(None)
            self._server = None

    def __del__(self) -> None:
        """Who forgets :meth:`close` still leaves no connection behind."""
        if getattr(self, "_current", None) is not None:
            self.close()

    def _reached(self) -> Server:
        from inhouse_pgvector.address import resolve
        from inhouse_pgvector.connections import Server

        return Server(resolve(self.options.url), self.options)

    def _opened(self) -> Server:
        if self._server is None:
            raise ValueError("the vector store is not open: call open(folder, ...) first")
        return self._server

    def _swap(self, new: Opened | None) -> None:
        old, self._current = self._current, new
        self._failure = None
        if old is not None:
            old.close()

    def _begin(self) -> Opened:
        """A collection for vectors that are added to an empty index."""
        from inhouse_pgvector import catalogue, opened, schema

        server = self._opened()
        shape = catalogue.Shape.of(self.options, self._dimension)

        def begun(connection: Connection) -> Opened | None:
            schema.ensure(connection, server)
            catalogue.sweep(connection, server.names)
            collection = catalogue.begin(connection, server.names, shape)
            catalogue.make_graph(connection, server.names, collection, shape)
            return opened.join(server, collection, None)

        self._swap(server.patiently(begun))
        assert self._current
        return self._current

    def _change(self, work: Callable[[int, Connection], None], more: int) -> None:
        """A change that ends in a collection which was replaced meanwhile is done again in the new one."""
        while True:
            with self._changing:
                self._opened()
                current = self._current or self._begin()

            def changed(opened: Opened, connection: Connection) -> None:
                work(opened.collection, connection)
                opened.generation = None
                opened.rows += more

            self._with_current(changed, None)
            if self._current is current or self._current is None:
                return

    def _with_current(self, work: Callable[[Opened, Connection], T], empty: T) -> T:
        """``work`` on the open collection; on the next one when it is replaced before there is a connection."""
        from psycopg_pool import PoolClosed

        while True:
            current = self._current
            if current is None:
                self._opened()
                if self._failure:
                    raise ResourceError(self._failure.message, where=self._failure.where, hint=self._failure.hint)
                return empty
            try:
                return current.run(lambda connection, current=current: work(current, connection))  # type: ignore[misc]
            except PoolClosed:
                if self._current is current:
                    raise

    def _sweep(self, server: Server) -> None:
        """What was replaced goes at once where nobody else has it open; otherwise another time."""
        from psycopg import Error

        from inhouse_pgvector import catalogue

        with suppress(InhouseError, Error):
            server.patiently(lambda connection: catalogue.sweep(connection, server.names), patience=0)
