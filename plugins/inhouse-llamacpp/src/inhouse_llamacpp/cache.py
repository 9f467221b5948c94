"""Which tokens the key/value cache holds for which slot, and how many cells that takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:  # native loads llama.cpp
    from inhouse_llamacpp.native import Context


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common beginning; by halves, since slices compare much faster than loops."""
    high = min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


@define
class Slot:
    """One sequence of the cache: its number, its decoded tokens, and the cells they lie in."""

    number: int
    tokens: list[int] = field(factory=list)
    cells: list[int] = field(factory=list)
    used_at: int = 0


class Cache:
    """The slots over one ``Context``. Cells are shared between slots that have a prefix in common."""

    def __init__(self, context: Context, slots: int) -> None:
        self.context = context
        self.slots = [Slot(number) for number in range(slots)]
        self._owners: Counter[int] = Counter()
        self._next_cell = 0
        self._clock = 0

    @property
    def used(self) -> int:
        """Cells that hold a token of at least one slot."""
        return len(self._owners)

    def touch(self, slot: Slot) -> None:
        """Marks the slot as the one used last."""
        self._clock += 1
        slot.used_at = self._clock

    def add(self, slot: Slot, tokens: Sequence[int]) -> None:
        """Notes that ``tokens`` have been decoded at the end of the slot."""
        fresh = range(self._next_cell, self._next_cell + len(tokens))
        self._next_cell += len(tokens)
        slot.tokens.extend(tokens)
        slot.cells.extend(fresh)
        self._owners.update(fresh)

    def truncate(self, slot: Slot, length: int) -> None:
        """Keeps the first ``length`` tokens."""
        if length >= len(slot.tokens):
            return
        self.context.truncate(slot.number, length)
        for cell in slot.cells[length:]:
            self._owners[cell] -= 1
            if not self._owners[cell]:
                del self._owners[cell]
        del slot.tokens[length:], slot.cells[length:]

    def share(self, source: Slot, target: Slot, length: int) -> None:
        """Gives ``target``, emptied before, the first ``length`` tokens of ``source``."""
        self.truncate(target, 0)
        if length:
            self.context.share(source.number, target.number, length)
            target.tokens = source.tokens[:length]
            target.cells = source.cells[:length]
            self._owners.update(target.cells)
