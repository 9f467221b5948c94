"""What things are called in the database: tables, and the advisory locks that say who is at what."""

from __future__ import annotations

from hashlib import blake2b

from attrs import frozen
from psycopg import sql


@frozen
class Names:
    """Everything of one schema. Locks are numbers in PostgreSQL, of all that use the database; these are digests."""

    schema: str

    @property
    def collections(self) -> sql.Identifier:
        """The table of collections."""
        return sql.Identifier(self.schema, "collections")

    @property
    def schema_version(self) -> sql.Identifier:
        """The table that says which migrations were applied."""
        return sql.Identifier(self.schema, "schema_version")

    def vectors(self, collection: int) -> sql.Identifier:
        """A collection's table."""
        return sql.Identifier(self.schema, f"vectors_{collection:d}")

    def graph(self, collection: int) -> sql.Identifier:
        """Its HNSW index; PostgreSQL puts it into the table's schema."""
        return sql.Identifier(f"vectors_{collection:d}_hnsw")

    def alive(self, collection: int) -> int:
        """Shared by all who have the collection open, for as long as they are connected."""
        return self._lock(f"alive/{collection:d}")

    def change(self, collection: int) -> int:
        """Shared by transactions that change its vectors; exclusive for the one that names it."""
        return self._lock(f"change/{collection:d}")

    def building(self, generation: int) -> int:
        """Exclusive for the one that rebuilds a generation; the others wait, and find it built."""
        return self._lock(f"building/{generation:d}")

    def _lock(self, what: str) -> int:
        digest = blake2b(f"inhouse_pgvector/{self.schema}/{what}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)
