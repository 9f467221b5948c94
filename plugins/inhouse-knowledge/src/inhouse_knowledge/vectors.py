"""The dense leg: a knowledge base's vectors in a vector store."""

from __future__ import annotations

import logging
from pathlib import Path

from inhouse.errors import ResourceError
from inhouse.protocols import VectorStore
from inhouse_knowledge.reader import Reader

log = logging.getLogger(__name__)


def open_store(reader: Reader, store: VectorStore, folder: Path) -> None:
    """Opens the index kept in ``folder``, and fills it from the file's vectors when it is not theirs.

    In a folder that cannot be written the index lives in memory.
    """
    fits = store.open(folder, dimension=reader.dimension, generation=reader.stamp)
    if fits and store.count() == reader.count():
        return
    if folder.is_dir():
        log.warning("the vector index in %s is damaged or outdated and is made again", folder)
    try:
        fill(reader, store)
    except ResourceError as error:
        log.warning("%s", error.message)


def build(reader: Reader, store: VectorStore, folder: Path) -> None:
    """Makes the index of all vectors in ``folder``, durably. Raises ``ResourceError`` when it cannot be written."""
    store.open(folder, dimension=reader.dimension, generation=reader.stamp)
    fill(reader, store)
    store.close()


def fill(reader: Reader, store: VectorStore) -> None:
    """Replaces what an open store holds by the file's vectors."""
    ids, matrix = reader.vectors()
    store.rebuild(ids.tolist(), matrix, generation=reader.stamp)
