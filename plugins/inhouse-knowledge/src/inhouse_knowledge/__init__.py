"""Declares the indexer ``sqlite`` and the command ``inhouse knowledge``."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen, validators

from inhouse import CommandSpec, IndexerSpec, Slot, hookimpl


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
    rerank: int = field(
        default=20,
        validator=[validators.ge(0), validators.le(1000)],
        metadata={"help": "the best passages that the embedder's cross-encoder, if it has one, puts in order anew"},
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
        version=3,
        slots=(
            Slot("vector_store", "vector_store", "hnswlib"),
            Slot("embedder", "embedder", "minilm"),
        ),
    )


@hookimpl
def inhouse_commands() -> Iterator[CommandSpec]:
    """The command of this distribution."""
    yield CommandSpec(
        name="knowledge",
        summary="Search, examine and tune a knowledge base.",
        factory="inhouse_knowledge.commands:command",
    )
