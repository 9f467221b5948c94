"""``gguf.GGUFReader`` for files from outside.

The library believes the counts in a file: it slices past the end, and an array said to have 2^60 elements keeps it busy
until memory is full. Here every read is held against the bytes that are there, and their number has an end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGUFReader

READS = 8_000_000
"""Most values of a header. A vocabulary of 262,144 tokens with its merges is 2 million; each costs some 100 bytes."""


class BoundedReader(GGUFReader):
    """Raises ``ValueError`` for a file that ends before what it says of itself does, that says more than any model, or
    whose tensors lie over each other; what else the library raises for a file that is no GGUF."""

    def __init__(self, path: Any) -> None:
        self._left = READS
        super().__init__(path)
        end, last = 0, ""
        for each in sorted(self.tensors, key=lambda each: int(each.data_offset)):
            if int(each.data_offset) < end:
                raise ValueError(f"the tensor {each.name[:80]!r} lies over {last[:80]!r}")
            end, last = int(each.data_offset) + int(each.n_bytes), each.name

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"its header has more than {READS:,} values")
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, before what it says that it holds")
        return super()._get(offset, dtype, count, override_order)
