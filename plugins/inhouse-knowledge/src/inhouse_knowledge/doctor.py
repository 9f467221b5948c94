"""Compares a finished knowledge base with itself: text, words, vectors and the vector store's index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from attrs import frozen

from inhouse.errors import InhouseError
from inhouse.protocols import VectorStore
from inhouse_knowledge import vectors
from inhouse_knowledge.corpus import Document
from inhouse_knowledge.reader import Ids, Reader, Vectors
from inhouse_knowledge.schema import checksum

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
    with closing(reader):
        first = _file(path)
        yield first
        if first.state == "wrong":  # the rest would only trip over it
            return
        yield _documents(path)
        yield _passages(path)
        yield _words(path)
        ids, matrix = reader.vectors()
        yield _vectors(path, reader, matrix)
        check = _index(reader, store, folder, ids, matrix)
        if check.state == "wrong" and mend:
            vectors.build(reader, store, folder)
            again = _index(reader, store, folder, ids, matrix)
            check = Check("index", "mended", f"{check.found}; now {again.found}") if again.state == "ok" else again
        yield check


def _connected(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True))


def _judged(name: str, wrong: list[str], right: str) -> Check:
    """``right`` when nothing is wrong; else the first three of what is, and how many there are."""
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return Check(name, "wrong", "; ".join(wrong[:3]) + more) if wrong else Check(name, "ok", right)


def _file(path: Path) -> Check:
    with _connected(path) as connection:
        try:
            said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
            orphans = [
                f"{table} without its {parent}"
                for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")
            ]
        except sqlite3.DatabaseError as error:
            said, orphans = [str(error)], []
    return _judged("file", [*(each for each in said if each != "ok"), *orphans], f"{path.stat().st_size / 1e6:.1f} MB")


def _documents(path: Path) -> Check:
    """Every document against the digest that was taken when it came in."""
    wrong, count = [], 0
    with _connected(path) as connection:
        for row, name, title, text, place, pages, digest in connection.execute(
            "SELECT id, name, title, text, path, pages, digest FROM documents"
        ):
            count += 1
            metadata = connection.execute('SELECT "key", value FROM metadata WHERE document = ? ORDER BY 1, 2', (row,))
            document = Document(name, title, text, place, tuple(metadata.fetchall()), tuple(json.loads(pages)))
            if document.digest != digest:
                wrong.append(f"{name} is not what came in")
    return _judged("documents", wrong, f"{count}, each as its digest says")


def _passages(path: Path) -> Check:
    """Every passage is a slice of its document, and has a vector."""
    statement = """
        SELECT name, number, chunks.text = substr(documents.text, "start" + 1, "end" - "start"), vectors.chunk IS NULL
        FROM chunks JOIN documents ON documents.id = document LEFT JOIN vectors ON vectors.chunk = chunks.id
    """
    wrong, count = [], 0
    with _connected(path) as connection:
        for name, number, same, bare in connection.execute(statement):
            count += 1
            if not same:
                wrong.append(f"passage {number} of {name} is not in its document")
            if bare:
                wrong.append(f"passage {number} of {name} has no vector")
    return _judged("passages", wrong, f"{count}, each a slice of its document")


def _words(path: Path) -> Check:
    """FTS5 compares its index with the passages only in a file that it may write: a copy."""
    with (
        TemporaryDirectory() as folder,
        _connected(path) as connection,
        closing(sqlite3.connect(Path(folder, "copy.sqlite"), isolation_level=None)) as copy,
    ):
        connection.backup(copy)
        try:
            copy.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError as error:
            return Check("words", "wrong", f"the full-text index is not that of the passages: {error}")
    return Check("words", "ok", "as the passages say")


def _vectors(path: Path, reader: Reader, matrix: Vectors) -> Check:
    """The passages' places, titles and vectors against the checksum that was taken when the file was handed over."""
    with _connected(path) as connection:
        same = connection.execute("SELECT value FROM meta WHERE key = 'checksum'").fetchone() == (checksum(connection),)
    wrong = [] if same else ["titles, places or vectors of passages are not those that were written"]
    return _judged("vectors", wrong, f"{len(matrix)} of {reader.dimension} numbers by {reader.embedder}")


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
