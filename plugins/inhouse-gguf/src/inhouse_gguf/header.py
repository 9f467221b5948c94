"""A strict reader of GGUF headers, for files from outside.

``gguf.GGUFReader`` believes the counts in a file: it slices past its end, and an array said to have 2^60 elements
keeps it busy until memory is full. Here every count is checked against the bytes that are left before it is used.
Format: ``docs/gguf.md`` of the ggml repository.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from inhouse.errors import DataError

VERSIONS = (2, 3)
DIMENSIONS = 4  # GGML_MAX_DIMS in ggml.h
LEAST_KEY = 8 + 4 + 1  # an empty name, a type, one byte
LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # an empty name, one dimension, type and offset

_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


@frozen
class TensorInfo:
    """One tensor: ``shape`` as ggml counts (columns first), ``offset`` in bytes from the file's beginning."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    bytes: int


@frozen
class Header:
    """``keys`` without arrays of numbers (their place has None); tensors by name, each inside the file."""

    path: Path
    keys: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def floats(self, name: str) -> NDArray[np.float32]:
        """The values of an F32 tensor in one row, read now. Raises ``DataError`` for another type."""
        info = self.tensors[name]
        if info.type != GGMLQuantizationType.F32:
            raise DataError(f"{name} is stored as {info.type.name}, not F32", where=str(self.path))
        values: NDArray[np.float32] = np.fromfile(self.path, "<f4", info.bytes // 4, offset=info.offset)
        return values


@define
class _Cursor:
    """Walks over the bytes of a file and never past its end."""

    path: Path
    data: mmap.mmap
    at: int = field(default=0)

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise DataError(f"ends at byte {len(self.data)}, in the middle of its header", where=str(self.path))
        self.at += size
        return self.data[self.at - size : self.at]

    def skip(self, size: int) -> None:
        if size > self.left:
            raise DataError(f"ends at byte {len(self.data)}, in the middle of its header", where=str(self.path))
        self.at += size

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, least: int, what: str) -> int:
        """A count of things that take ``least`` bytes each; raises ``DataError`` for more than the file can hold."""
        found: int = self.number("<Q")
        if found > self.left // least:
            raise DataError(f"is said to have {found} {what}, more than its size allows", where=str(self.path))
        return found

    def text(self) -> str:
        raw = self.take(self.count(1, "characters in a name"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"has a text that is no UTF-8 before byte {self.at}", where=str(self.path)) from error

    def kind(self) -> GGUFValueType:
        found: GGUFValueType = self.one_of(GGUFValueType, "value")
        return found

    def one_of(self, kinds: Any, what: str) -> Any:
        found = self.number("<I")
        try:
            return kinds(found)
        except ValueError:
            raise DataError(f"has a {what} of the unknown type {found}", where=str(self.path)) from None


def read_header(path: Path) -> Header:
    """Reads the header of the GGUF file ``path``; no tensor's values are read.

    Raises ``DataError`` for anything that is no whole little-endian GGUF of version 2 or 3: another magic, counts
    and offsets beyond the file, unknown types, names that occur twice.
    """
    try:
        if not path.stat().st_size:
            raise DataError("is empty", where=str(path))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(path, data))
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path)) from error


def _read(cursor: _Cursor) -> Header:
    where = str(cursor.path)
    if cursor.left < 4 or cursor.take(4) != b"GGUF":
        raise DataError("is no GGUF file", where=where)
    version = cursor.number("<I")
    if version not in VERSIONS:
        raise DataError(f"is GGUF of version {version}; {VERSIONS[0]} and {VERSIONS[1]} can be read", where=where)
    tensors = cursor.count(LEAST_TENSOR, "tensors")
    keys: dict[str, Any] = {}
    for _ in range(cursor.count(LEAST_KEY, "keys")):
        name = cursor.text()
        if name in keys:
            raise DataError(f"has the key {name} twice", where=where)
        keys[name] = _value(cursor, cursor.kind())
    infos = [_tensor(cursor) for _ in range(tensors)]
    return Header(cursor.path, keys, _placed(cursor, infos, _alignment(keys, where)))


def _value(cursor: _Cursor, kind: GGUFValueType) -> Any:
    """A number, a text, or a list of texts; an array of numbers is passed over."""
    if kind == GGUFValueType.STRING:
        return cursor.text()
    if kind != GGUFValueType.ARRAY:
        return cursor.number(_SCALARS[kind])
    inner = cursor.kind()
    if inner == GGUFValueType.STRING:
        return [cursor.text() for _ in range(cursor.count(8, "texts in an array"))]
    if inner == GGUFValueType.ARRAY:
        raise DataError("has arrays in an array", where=str(cursor.path))
    size = struct.calcsize(_SCALARS[inner])
    cursor.skip(cursor.count(size, "numbers in an array") * size)
    return None


def _tensor(cursor: _Cursor) -> TensorInfo:
    """What stands about one tensor; ``offset`` is from the beginning of the tensors here."""
    name, dimensions = cursor.text(), cursor.number("<I")
    if not 1 <= dimensions <= DIMENSIONS:
        raise DataError(f"{name} has {dimensions} dimensions", where=str(cursor.path))
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))
    kind = cursor.one_of(GGMLQuantizationType, "tensor")
    block, size = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[0] % block:
        raise DataError(f"{name} has the impossible shape {list(shape)}", where=str(cursor.path))
    return TensorInfo(name, shape, kind, cursor.number("<Q"), math.prod(shape) // block * size)


def _alignment(keys: Mapping[str, Any], where: str) -> int:
    found = keys.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(found, int) or found < 1 or found & (found - 1):
        raise DataError(f"general.alignment is {found!r}, no power of two", where=where)
    return found


def _placed(cursor: _Cursor, infos: list[TensorInfo], alignment: int) -> dict[str, TensorInfo]:
    where, start = str(cursor.path), -(-cursor.at // alignment) * alignment
    placed: dict[str, TensorInfo] = {}
    for each in infos:
        if each.name in placed:
            raise DataError(f"has the tensor {each.name} twice", where=where)
        begin = start + each.offset
        if begin + each.bytes > len(cursor.data):
            raise DataError(f"is cut off: {each.name} ends at byte {begin + each.bytes}", where=where)
        placed[each.name] = TensorInfo(each.name, each.shape, each.type, begin, each.bytes)
    return placed
