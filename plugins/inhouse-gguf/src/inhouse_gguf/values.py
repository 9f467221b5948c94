"""Changes number formats block by block, so that a tensor of any size needs little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from inhouse.errors import DataError

Array = NDArray[Any]

BLOCK = 8 << 20
"""Values converted at once: 32 MiB as float32."""

TYPES = {
    "F32": GGMLQuantizationType.F32,
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
}
ITEM = {"F32": 4, "F16": 2, "BF16": 2}


def as_float32(values: Array, dtype: str) -> NDArray[np.float32]:
    """``values`` (bfloat16 as uint16 bits) as float32; exact for all three formats."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def from_float32(values: NDArray[np.float32], dtype: str) -> Array:
    """Rounds float32 to ``dtype``, to nearest and ties to even; bfloat16 as uint16 bits."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return values


def add_to(sums: NDArray[np.float32], values: Array, dtype: str, scratch: NDArray[np.uint32]) -> None:
    """Adds ``values`` (bfloat16 as uint16 bits) to ``sums``; no new arrays, whose pages cost more than the sums."""
    if dtype == "BF16":
        np.left_shift(values, 16, out=scratch, dtype=np.uint32)
        sums += scratch.view(np.float32)
    else:
        sums += values


def to_bfloat16(values: NDArray[np.float32], scratch: NDArray[np.uint32]) -> Array:
    """What :func:`from_float32` gives, as uint16 bits; ``values`` are used up."""
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=scratch)
    scratch &= np.uint32(1)
    scratch += np.uint32(0x7FFF)
    bits += scratch
    bits >>= np.uint32(16)
    return bits.astype(np.uint16)


class Converted:
    """A tensor that becomes another format while it is written.

    Stands in for an array in ``GGUFWriter.write_tensor_data``, which asks for ``nbytes`` and ``tofile``.
    ``hint`` says what to type when values are beyond float16; ``shift`` is added to each value.
    """

    def __init__(
        self, name: str, values: Array, source: str, wanted: str, hint: str = "type = bf16", shift: float = 0.0
    ) -> None:
        self.name = name
        self.values = values
        self.source = source
        self.wanted = wanted
        self.hint = hint
        self.shift = np.float32(shift)
        self.nbytes = values.size * ITEM[wanted]

    def blocks(self) -> Iterator[Array]:
        """Blocks of rows in the wanted format. Raises ``DataError`` for a value out of its range."""
        rows = max(1, BLOCK // max(1, self.values[:1].size))
        for start in range(0, len(self.values), rows):
            block = np.ascontiguousarray(self.values[start : start + rows])
            if self.source == self.wanted and not self.shift:
                yield block
                continue
            exact = as_float32(block, self.source)
            yield self.rounded(exact + self.shift if self.shift else exact)

    def rounded(self, exact: NDArray[np.float32]) -> Array:
        """``exact`` in the wanted format. Raises ``DataError`` for a value out of its range."""
        made = from_float32(exact, self.wanted)
        if self.wanted == "F16" and not np.isfinite(made).all() and np.isfinite(exact).all():
            raise DataError(f"{self.name} has values beyond float16 (65504)", hint=self.hint)
        return made

    def tofile(self, file: IO[bytes]) -> None:
        """Writes the values at the file's position."""
        for block in self.blocks():
            block.tofile(file)
