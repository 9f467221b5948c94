"""Looks over the header of a GGUF before llama.cpp is given the file: every count against the bytes that are left.

Only the standard library: where a model is run, nothing else that knows GGUF need be installed. Format:
``docs/gguf.md`` of the ggml repository.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from attrs import define

from inhouse.errors import DataError

DIMENSIONS = 4  # GGML_MAX_DIMS in ggml.h
LEAST_KEY = 8 + 4 + 1  # an empty name, a type, one byte
LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # an empty name, one dimension, type and offset
ALIGNMENT = 32

_VALUES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each gguf_type
_UINT32, _STRING, _ARRAY = 4, 8, 9

_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""ggml's types: weights in a block, and its bytes. Tensors of a type that is not here count as one byte: llama.cpp may
know more."""


def scan(path: Path) -> None:
    """Raises ``DataError`` for counts and offsets beyond the file, tensors that overlap, names that occur twice, and
    what else no writer of a whole little-endian GGUF would write. No tensor's values are read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _scan(_Cursor(path, data))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise DataError(f"the model cannot be read: {error}", where=str(path)) from error


@define
class _Cursor:
    """Walks over the bytes of a file and never past its end."""

    path: Path
    data: mmap.mmap
    at: int = 8  # behind magic and version

    def skip(self, size: int) -> int:
        """Goes on by ``size`` bytes; where it was."""
        if size > len(self.data) - self.at:
            self.refuse(f"the file ends at byte {len(self.data)}, in the middle of its header")
        self.at += size
        return self.at - size

    def number(self, form: str) -> int:
        found: int = struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]
        return found

    def count(self, least: int, what: str) -> int:
        """A count of things that take ``least`` bytes each."""
        found = self.number("<Q")
        if found > (len(self.data) - self.at) // least:
            self.refuse(f"the file is said to have {found} {what}, more than its size allows")
        return found

    def text(self) -> bytes:
        size = self.count(1, "characters in a name")
        begin = self.skip(size)
        return self.data[begin : begin + size]

    def refuse(self, why: str) -> NoReturn:
        raise DataError(why, where=str(self.path), hint="fetch or make the file again")


def _scan(cursor: _Cursor) -> None:
    tensors = cursor.count(LEAST_TENSOR, "tensors")
    alignment, known = ALIGNMENT, set()
    for _ in range(cursor.count(LEAST_KEY, "keys")):
        name = cursor.text()
        if name in known:
            cursor.refuse(f"the file has the key {_shown(name)} twice")
        known.add(name)
        found = _value(cursor, cursor.number("<I"))
        if name == b"general.alignment":
            alignment = found
    if alignment < 1 or alignment & (alignment - 1):
        cursor.refuse(f"general.alignment is {alignment}, no power of two")
    infos = sorted(_tensors(cursor, tensors))
    start, end = -(-cursor.at // alignment) * alignment, 0
    for offset, size, name in infos:
        if offset < end:
            cursor.refuse(f"the tensor {_shown(name)} lies over another one")
        if offset % alignment:
            cursor.refuse(f"the tensor {_shown(name)} lies at {offset}, no multiple of {alignment}")
        end = offset + size
        if start + end > len(cursor.data):
            cursor.refuse(f"the file is cut off: {_shown(name)} ends at byte {start + end} of {len(cursor.data)}")


def _value(cursor: _Cursor, kind: int) -> int:
    """Goes over a value; gives it where it is a number of 32 bits, else 0."""
    if kind == _STRING:
        cursor.text()
    elif kind == _ARRAY:
        inner = cursor.number("<I")
        if inner == _STRING:
            for _ in range(cursor.count(8, "texts in an array")):
                cursor.skip(cursor.count(1, "characters in a text"))
        elif inner in _VALUES:
            cursor.skip(cursor.count(_VALUES[inner], "numbers in an array") * _VALUES[inner])
        else:
            cursor.refuse(f"the file has an array of the unknown type {inner}")
    elif kind == _UINT32:
        return cursor.number("<I")
    elif kind in _VALUES:
        cursor.skip(_VALUES[kind])
    else:
        cursor.refuse(f"the file has a value of the unknown type {kind}")
    return 0


def _tensors(cursor: _Cursor, count: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, bytes, name) of each tensor."""
    known = set()
    for _ in range(count):
        name = cursor.text()
        if name in known:
            cursor.refuse(f"the file has the tensor {_shown(name)} twice")
        known.add(name)
        dimensions = cursor.number("<I")
        if not 1 <= dimensions <= DIMENSIONS:
            cursor.refuse(f"the tensor {_shown(name)} has {dimensions} dimensions")
        shape = [cursor.number("<Q") for _ in range(dimensions)]
        block, size = _BLOCKS.get(cursor.number("<I"), (0, 0))
        if 0 in shape or (block and shape[0] % block):
            cursor.refuse(f"the tensor {_shown(name)} has the impossible shape {shape}")
        yield cursor.number("<Q"), math.prod(shape) // block * size if block else 1, name


def _shown(name: bytes) -> str:
    return repr(name[:80].decode(errors="replace"))
