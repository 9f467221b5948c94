"""Declares the vector store ``hnswlib``."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen, validators

from inhouse import VectorStoreSpec, hookimpl


@frozen
class Options:
    """How the graph is built and searched; cosine similarity always."""

    m: int = field(
        default=16,
        validator=[validators.ge(2), validators.le(128)],
        metadata={"help": "neighbours of each node; more finds more and takes more memory"},
    )
    ef_construction: int = field(
        default=128,
        validator=[validators.ge(8), validators.le(10_000)],
        metadata={"help": "candidates looked at while building"},
    )
    ef_search: int = field(
        default=128,
        validator=[validators.ge(1), validators.le(100_000)],
        metadata={"help": "candidates looked at while searching"},
    )
    exact_below: int = field(
        default=20_000,
        validator=validators.ge(0),
        metadata={"help": "compare with every vector when at most so many may be found"},
    )
    seed: int = field(default=7, validator=validators.ge(0), metadata={"help": "seed of the graph's random levels"})


@hookimpl
def inhouse_vector_stores() -> Iterator[VectorStoreSpec]:
    """The one store of this distribution."""
    yield VectorStoreSpec(
        name="hnswlib",
        summary="HNSW graph in the process, kept as a checked cache file",
        factory="inhouse_hnswlib.store:HnswlibStore",
        options=Options,
        features=frozenset({"filter", "delete", "deterministic"}),
    )
