"""Vector store ``sqlite-vec``: vectors in one SQLite file, as it would come from a package index."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen, validators

from inhouse import VectorStoreSpec, hookimpl


@frozen
class Options:
    """What ``[knowledge.sqlite-vec]`` may say."""

    cache: int = field(
        default=16,
        validator=[validators.ge(1), validators.le(65_536)],
        metadata={
            "help": "MiB of the index that SQLite keeps in memory; changed vectors beyond go to a temporary file",
            "counts": False,
        },
    )


@hookimpl
def inhouse_vector_stores() -> Iterator[VectorStoreSpec]:
    """The one store of this distribution."""
    yield VectorStoreSpec(
        name="sqlite-vec",
        summary="every vector in one SQLite file, compared with each query by sqlite-vec",
        factory="inhouse_sample_sqlitevec.store:SqliteVecStore",
        options=Options,
        features=frozenset({"filter", "delete", "deterministic"}),
    )
