"""Vectors of passages that an earlier base of the same step has: what did not change is not embedded again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from inhouse.errors import ArtifactError
from inhouse.protocols import Embedder
from inhouse_knowledge.chunking import Chunk, embedded_text
from inhouse_knowledge.reader import Reader, Vectors


class Earlier:
    """A base's vectors by what was embedded. ``reused`` counts the vectors that were given."""

    def __init__(self, reader: Reader | None = None) -> None:
        self._reader = reader
        self._ids = {_key(title, text): key for key, title, text in reader.texts()} if reader else {}
        self.reused = 0

    def vectors(self, chunks: Sequence[Chunk]) -> dict[int, Vectors]:
        """Places in ``chunks`` whose vector is known, and the vectors, float32 (dimension,)."""
        found = {at: key for at, chunk in enumerate(chunks) if (key := self._ids.get(_key(chunk.title, chunk.text)))}
        if self._reader is None or not found:
            return {}
        keys, rows = self._reader.vectors(sorted(set(found.values())))
        by_id = dict(zip(keys.tolist(), rows, strict=True))
        self.reused += len(found)
        return {at: by_id[key] for at, key in found.items()}

    def close(self) -> None:
        """Closes the base."""
        if self._reader:
            self._reader.close()


def newest(databases: Iterable[Path], embedder: Embedder) -> Earlier:
    """The first of ``databases`` that is whole and has this embedder's vectors, in the number format that it computes
    in here; one that knows nothing if none has."""
    wanted = (embedder.name, embedder.dimension, getattr(embedder, "dtype", ""))
    for path in databases:
        with suppress(ArtifactError), ExitStack() as opened:  # of another version, or damaged: as if it were not there
            reader = opened.enter_context(closing(Reader(path)))
            if (reader.embedder, reader.dimension, reader.dtype) == wanted and reader.whole():
                found = Earlier(reader)
                opened.pop_all()
                return found
    return Earlier()


def _key(title: str, text: str) -> bytes:
    return hashlib.blake2b(embedded_text(title, text).encode(), digest_size=16).digest()
