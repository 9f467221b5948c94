"""The indexer: corpus to chunks to vectors to one file; and the way back, an open knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from attrs import field, frozen

from inhouse.errors import DataError, RecipeError
from inhouse.protocols import Embedder, Step, VectorStore
from inhouse.values import Artifact
from inhouse_knowledge import Options, corpus, vectors
from inhouse_knowledge.chunking import CHUNKING_VERSION, Chunk, embedded_text, estimate_tokens, split
from inhouse_knowledge.corpus import Document
from inhouse_knowledge.doctor import Check, examine
from inhouse_knowledge.earlier import Earlier, newest
from inhouse_knowledge.reader import Reader, Vectors
from inhouse_knowledge.schema import fts5_missing
from inhouse_knowledge.search import SqliteKnowledge, embedded
from inhouse_knowledge.writer import Entry, Writer

DATABASE = "knowledge.sqlite"
INDEX = "index"
GROUP = 64  # documents of one transaction and one call of the embedder

T = TypeVar("T")


@frozen
class _Found:
    """What the corpus holds: digests by name (documents with text only), and the names of empty ones."""

    digests: dict[str, str] = field(factory=dict)
    empty: list[str] = field(factory=list)


class SqliteIndexer:
    """A :class:`inhouse.protocols.Indexer`. Writes ``knowledge.sqlite`` and the vector store's ``index``."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def probe(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.options.dense_weight == 0 and self.options.lexical_weight == 0:
            return "dense_weight and lexical_weight are both 0: nothing could be found"
        return fts5_missing()

    def index(self, step: Step, *inputs: Any) -> None:
        """Makes a knowledge base of a ``text/corpus``.

        The working file lies in ``step.checkpoints``: killed at any point, the next run goes on with the
        documents that are not there, and ends with the same bytes.
        """
        source: Artifact = inputs[0]
        path = source.path / "corpus.jsonl"
        found = _survey(path)
        embedder: Embedder = step.service("embedder")
        count = self._count(step, embedder)
        before = (each.path / DATABASE for each in step.earlier() if each.kind == "knowledge")
        with (
            closing(newest(before, embedder)) as earlier,
            Writer(step.checkpoints / DATABASE, self._identity(embedder)) as writer,
        ):
            present = writer.digests()
            gone = sorted(present.keys() - found.digests.keys())
            if gone:
                writer.remove(gone)
            done = 0
            for group in _groups(corpus.read(path), GROUP):
                step.progress(done, len(found.digests), unit="document")
                changed = [one for one in group if one.text.strip() and present.get(one.name) != one.digest]
                if changed:
                    writer.put(self._entries(changed, embedder, count, earlier))
                done += sum(1 for one in group if one.text.strip())
            step.progress(done, len(found.digests), unit="document")
            writer.hand_over(step.output / DATABASE)
            if earlier.reused:
                step.notice(f"{earlier.reused} passages are as before: their vectors are taken from the base of then")
        self._finish(step, embedder, found)

    def _count(self, step: Step, embedder: Embedder) -> Callable[[str], int]:
        """The embedder's own token count, if it offers one."""
        longest = getattr(embedder, "max_tokens", None)
        if isinstance(longest, int) and self.options.chunk_tokens > longest:
            step.notice(
                f"chunk_tokens = {self.options.chunk_tokens}, but {embedder.name} reads {longest} tokens:"
                " the rest of a passage is found by its words only",
                level="warning",
            )
        count: Callable[[str], int] = getattr(embedder, "count_tokens", estimate_tokens)
        return count

    def _identity(self, embedder: Embedder) -> dict[str, str | int]:
        return {
            "embedder": embedder.name,
            "dimension": embedder.dimension,
            "dtype": getattr(embedder, "dtype", ""),
            "chunk_tokens": self.options.chunk_tokens,
            "chunking": CHUNKING_VERSION,
        }

    def _entries(
        self, documents: list[Document], embedder: Embedder, count: Callable[[str], int], earlier: Earlier
    ) -> list[Entry]:
        limit = self.options.chunk_tokens
        chunks = [split(each.text, each.title, limit=limit, count=count) for each in documents]
        rows = _vectors(list(chain.from_iterable(chunks)), embedder, earlier)
        entries: list[Entry] = []
        start = 0
        for document, own in zip(documents, chunks, strict=True):
            entries.append((document, own, rows[start : start + len(own)]))
            start += len(own)
        return entries

    def _finish(self, step: Step, embedder: Embedder, found: _Found) -> None:
        """Builds the vector index from what was written, and says what came of it."""
        reader = Reader(step.output / DATABASE)
        try:
            vectors.build(reader, step.service("vector_store"), step.output / INDEX)
            passages = reader.count()
        finally:
            reader.close()
        if found.empty:
            step.notice(f"{len(found.empty)} documents without text left out: {', '.join(found.empty[:5])}")
        step.note(
            documents=len(found.digests),
            passages=passages,
            skipped=found.empty,
            embedder=embedder.name,
            dimension=embedder.dimension,
        )

    def open(self, folder: Path, services: Mapping[str, Any]) -> SqliteKnowledge:
        """Opens what :meth:`index` wrote; ``services`` holds ``embedder`` and ``vector_store``.

        Raises ``ArtifactError`` for a damaged file and ``RecipeError`` for vectors of another embedder.
        """
        reader = Reader(folder / DATABASE)
        embedder: Embedder = services["embedder"]
        try:
            if self.options.dense_weight == 0:
                return SqliteKnowledge(reader, embedder, None, self.options)
            if (embedder.name, embedder.dimension) != (reader.embedder, reader.dimension):
                raise RecipeError(
                    f"the vectors are {reader.embedder}'s, and the recipe's embedder is {embedder.name}",
                    where=str(folder),
                    hint="inhouse run RECIPE (embeds the documents anew), or name the embedder of before",
                )
            store: VectorStore = services["vector_store"]
            vectors.open_store(reader, store, folder / INDEX)
        except BaseException:
            reader.close()
            raise
        return SqliteKnowledge(reader, embedder, store, self.options)

    def examine(self, folder: Path, services: Mapping[str, Any], *, mend: bool) -> Iterator[Check]:
        """What :mod:`inhouse_knowledge.doctor` finds in what :meth:`index` wrote."""
        return examine(folder / DATABASE, services["vector_store"], folder / INDEX, mend=mend)


def _vectors(chunks: Sequence[Chunk], embedder: Embedder, earlier: Earlier) -> Vectors:
    """float32 (len(chunks), dimension): of the base before where it has them, else embedded."""
    known = earlier.vectors(chunks)
    new = [at for at in range(len(chunks)) if at not in known]
    rows = np.zeros((len(chunks), embedder.dimension), np.float32)
    for at, vector in known.items():
        rows[at] = vector
    if new:
        rows[new] = embedded(embedder, [embedded_text(chunks[at].title, chunks[at].text) for at in new])
    return rows


def _survey(path: Path) -> _Found:
    """Reads the corpus once, so that a bad line is told before any work. Raises ``DataError``."""
    found = _Found()
    for document in corpus.read(path):
        if document.text.strip():
            found.digests[document.name] = document.digest
        else:
            found.empty.append(document.name)
    if not found.digests:
        raise DataError("no document with text in it", where=str(path), hint="check the path of the documents")
    return found


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Always the same groups for the same corpus: with some embedders a vector's last bits depend on its batch."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
