"""Declares the indexer ``sqlite``."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen, validators

from inhouse import IndexerSpec, Slot, hookimpl


@frozen
class Options:
    """How documents are cut, and how the two legs of a search count."""

    chunk_tokens: int = field(
        default=200,
        validator=[validators.ge(16), validators.le(100_000)],
        metadata={"help": "most tokens of a passage; a document that fits stays whole"},
    )
    dense_weight: float = field(
        default=1.0,
        validator=[validators.ge(0), validators.lt(float("inf"))],
        metadata={"help": "weight of the cosine similarity; 0 leaves vectors out of the search"},
    )
    lexical_weight: float = field(
        default=0.2,
        validator=[validators.ge(0), validators.lt(float("inf"))],
        metadata={"help": "weight of the words (BM25); 0 leaves them out of the search"},
    )
    exact_below: int = field(
        default=20_000,
        validator=validators.ge(0),
        metadata={"help": "compare with every vector, without the vector store, up to so many passages"},
    )


@hookimpl
def inhouse_indexers() -> Iterator[IndexerSpec]:
    """The one indexer of this distribution."""
    yield IndexerSpec(
        name="sqlite",
        summary="documents, chunks, full text and vectors in one SQLite file; hybrid search",
        factory="inhouse_knowledge.indexer:SqliteIndexer",
        options=Options,
        consumes="text/corpus",
        produces="knowledge",
        slots=(
            Slot("vector_store", "vector_store", "hnswlib"),
            Slot("embedder", "embedder", "minilm"),
        ),
    )
