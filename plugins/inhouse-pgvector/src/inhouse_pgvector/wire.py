"""Vectors and ids as PostgreSQL takes them: checked, of unit length, in its binary formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import pq
from psycopg.adapt import Dumper

from inhouse_vectors.vectors import LARGEST_ID, Ids, Vectors

BLOCK = 1024  # rows of one piece of COPY
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


def known(ids: Sequence[int]) -> Ids:
    """The ids that a store can have at all; others are passed over."""
    if not isinstance(ids, np.ndarray):
        ids = [key for key in map(int, ids) if 1 <= key <= LARGEST_ID]
    return np.asarray(ids, dtype=np.int64)


def copied(ids: Ids, rows: Vectors) -> Iterator[bytes]:
    """What ``COPY (id, vector) FROM STDIN (FORMAT BINARY)`` reads.

    pgvector's ``vector_recv`` (src/vector.c) takes int16 dimension, int16 zero, and the numbers as float4, all
    big-endian; PostgreSQL puts a count before each row and a length before each value.
    """
    dimension = rows.shape[1]
    layout = [("fields", ">i2"), ("id_size", ">i4"), ("id", ">i8"), ("size", ">i4"), ("dimension", ">i2")]
    row = np.dtype([*layout, ("zero", ">i2"), ("numbers", ">f4", (dimension,))])
    yield HEADER
    for start in range(0, len(ids), BLOCK):
        block = np.zeros(len(ids[start : start + BLOCK]), row)
        block["fields"], block["id_size"], block["size"], block["dimension"] = 2, 8, 4 + 4 * dimension, dimension
        block["id"], block["numbers"] = ids[start : start + BLOCK], rows[start : start + BLOCK]
        yield block.tobytes()
    yield TRAILER


class _Array:
    """A one-dimensional array in PostgreSQL's binary format (``array_recv``)."""

    oid = 0
    size = 0
    kind = ""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        head = [1, 0, self.oid, len(values), 1] if len(values) else [0, 0, self.oid]
        body = np.zeros(len(values), np.dtype([("size", ">i4"), ("value", self.kind)]))
        body["size"], body["value"] = self.size, values
        self.data = np.array(head, dtype=">i4").tobytes() + body.tobytes()


class IdArray(_Array):
    """``bigint[]``."""

    oid, size, kind = 20, 8, ">i8"


class NumberArray(_Array):
    """``real[]``, which pgvector casts to ``vector``."""

    oid, size, kind = 700, 4, ">f4"


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: _Array) -> bytes:
        return obj.data


class IdArrayDumper(_ArrayDumper):
    """Sends an :class:`IdArray`."""

    oid = 1016  # _int8 in pg_type.dat


class NumberArrayDumper(_ArrayDumper):
    """Sends a :class:`NumberArray`."""

    oid = 1021  # _float4
