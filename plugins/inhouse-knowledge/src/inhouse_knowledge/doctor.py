"""Compares a finished knowledge base with itself: text, words, vectors and the vector store's index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from attrs import frozen

from inhouse.errors import ArtifactError, InhouseError
from inhouse.protocols import VectorStore
from inhouse_knowledge import checks, vectors
from inhouse_knowledge.reader import Ids, Reader, Vectors
from inhouse_knowledge.schema import unchanged

SAMPLE = 200  # searches that the recall is measured on
DEPTH = 10
RECALL = 0.95
"""Least share of the ten nearest passages that the index finds; below it the graph is made again."""

State = Literal["ok", "wrong", "mended"]


@frozen
class Check:
    """One thing that was compared: its name, how it stands, and what was found."""

    name: str
    state: State
    found: str


def examine(path: Path, store: VectorStore, folder: Path, *, mend: bool) -> Iterator[Check]:
    """Every check of the file ``path`` and of the index in ``folder``; the index is made again where it is wrong, if
    ``mend``. What is wrong with the file itself can only be made again from the documents.
    """
    try:
        reader = Reader(path)
    except InhouseError as error:
        yield Check("file", "wrong", error.message)
        return
    with closing(reader), _connected(path) as connection:
        first = _judged("file", _file(connection), f"{path.stat().st_size / 1e6:.1f} MB")
        yield first
        if first.state == "wrong":  # the rest would only trip over it
            return
        documents, passages = (_count(connection, each) for each in ("documents", "chunks"))
        yield _judged("documents", checks.documents(connection), f"{documents}, each as its digest says")
        yield _judged("passages", checks.passages(connection), f"{passages}, each a slice of its document")
        yield _judged("words", _words(connection), "as the passages say")
        numbers = f"{_count(connection, 'vectors')} of {reader.dimension} numbers by {reader.embedder}"
        yield _judged("vectors", _vectors(connection, reader.dimension), numbers)
        yield _index_check(reader, store, folder, mend=mend)


def _connected(path: Path) -> closing[sqlite3.Connection]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda raw: raw.decode(errors="replace")  # broken text is told, and no reason to stop
    return closing(connection)


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  a name from above


def _judged(name: str, wrong: Iterable[str], right: str) -> Check:
    """``right`` when nothing is wrong; else the first three of what is, and how many there are."""
    try:
        lines = list(wrong)
    except (sqlite3.Error, TypeError, ValueError) as error:  # in a damaged file anything may be anywhere
        lines = [f"cannot be read: {error}"]
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return Check(name, "wrong", "; ".join(lines[:3]) + more) if lines else Check(name, "ok", right)


def _file(connection: sqlite3.Connection) -> Iterator[str]:
    yield from (str(said) for (said,) in connection.execute("PRAGMA integrity_check(3)") if said != "ok")
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"{table} without its {parent}"


def _words(connection: sqlite3.Connection) -> Iterator[str]:
    """On a copy, since FTS5 compares in a file that it may write."""
    with (
        TemporaryDirectory() as folder,
        closing(sqlite3.connect(Path(folder, "copy.sqlite"), isolation_level=None)) as copy,
    ):
        connection.backup(copy)
        yield from checks.words(copy)


def _vectors(connection: sqlite3.Connection, dimension: int) -> Iterator[str]:
    """Also the passages' places, titles and vectors against the checksum taken when the file was handed over."""
    yield from checks.vectors(connection, dimension)
    if not unchanged(connection):
        yield "titles, places or vectors of passages are not those that were written"


def _index_check(reader: Reader, store: VectorStore, folder: Path, *, mend: bool) -> Check:
    try:
        ids, matrix = reader.vectors()
    except ArtifactError as error:
        return Check("index", "wrong", f"cannot be compared: {error.message}")
    check = _index(reader, store, folder, ids, matrix)
    if check.state == "wrong" and mend:
        vectors.build(reader, store, folder)
        again = _index(reader, store, folder, ids, matrix)
        check = Check("index", "mended", f"{check.found}; now {again.found}") if again.state == "ok" else again
    return check


def _index(reader: Reader, store: VectorStore, folder: Path, ids: Ids, matrix: Vectors) -> Check:
    """Whether the store opens what it kept, holds as many vectors, and finds what comparing with all of them finds."""
    fits = store.open(folder, dimension=reader.dimension, generation=reader.stamp)
    try:
        if not fits and not folder.exists():
            return Check("index", "ok", "the store keeps none")
        if not fits:
            return Check("index", "wrong", "missing, damaged, or of other vectors")
        if store.count() != len(ids):
            return Check("index", "wrong", f"{store.count()} vectors of {len(ids)}")
        recall = _recall(store, ids, matrix)
    finally:
        store.close()
    state: State = "ok" if recall >= RECALL else "wrong"
    return Check(
        "index", state, f"{len(ids)} vectors, recall@{DEPTH} {recall:.3f} over {min(SAMPLE, len(ids))} searches"
    )


def _recall(store: VectorStore, ids: Ids, matrix: Vectors) -> float:
    """Share of the ten nearest that the store finds; searches between two passages each, so that none is trivial."""
    drawn = np.random.default_rng(0)
    found = wanted = 0
    for at in drawn.permutation(len(ids))[:SAMPLE]:
        query = matrix[at] + matrix[drawn.integers(len(ids))]
        scores = matrix @ query
        least = np.partition(scores, -DEPTH)[-DEPTH] if len(ids) > DEPTH else -np.inf
        near = {int(key) for key in ids[scores >= least - 1e-5]}  # equal ones are as right
        hits = [key for key, _ in store.search(query, DEPTH)]
        found += len(near.intersection(hits))
        wanted += min(DEPTH, len(ids))
    return found / wanted if wanted else 1.0
