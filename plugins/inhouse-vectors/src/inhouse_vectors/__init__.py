"""Declares the vector store ``exact``."""

from __future__ import annotations

from collections.abc import Iterator

from inhouse import VectorStoreSpec, hookimpl


@hookimpl
def inhouse_vector_stores() -> Iterator[VectorStoreSpec]:
    """The one store of this distribution."""
    yield VectorStoreSpec(
        name="exact",
        summary="every vector in memory, compared with each query",
        factory="inhouse_vectors.exact:ExactStore",
        features=frozenset({"filter", "delete", "deterministic"}),
    )
