"""Key/value caches: one that grows in place, and the sequences that are kept between calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, compress, count
from operator import ne
from typing import Any

import torch
from attrs import frozen
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

STEP = 64
"""Positions that are reserved at a time."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A ``DynamicLayer`` that writes new states into reserved space.

    transformers' own concatenates, which copies the whole cache for every token: at batch 16 and 200
    positions that is 150 MB per token of a 135M model. Shapes (batch, heads, positions, head size).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends (batch, heads, new, head size) and returns all states so far, as views.

        May be called with the first rows only, or with more rows than before: what a row has not is zeros.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, old = key_states.shape[0], self.get_seq_length()
        new = old + key_states.shape[-2]
        before = self.room or self.states()
        if self.room is None or self.room[0].shape[0] < rows or self.room[0].shape[-2] < new:
            self.room = (_room(before[0], key_states, old, new), _room(before[1], value_states, old, new))
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:rows, :, old:new].copy_(states)
            room[rows:, :, old:new] = 0
        self.keys, self.values = (room[:rows, :, :new] for room in self.room)
        return self.states()

    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (batch, heads, positions, head size) of a layer that was used."""
        if self.keys is None or self.values is None:
            raise RuntimeError("a cache layer without states")
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows ``indices``."""
        super().batch_select_indices(indices)
        self.room = None


def _room(before: torch.Tensor, like: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Space for ``new`` positions; ``old`` of them are those of ``before``, and zeros in rows that it has not."""
    rows, heads, _, size = like.shape
    had = before.shape[0] if old else 0
    room = like.new_empty(max(rows, had), heads, -(-new // STEP) * STEP + STEP, size)
    if old:
        room[:had, :, :old].copy_(before[:, :, :old])
    room[had:, :, :old] = 0
    return room


def plain(config: Any) -> bool:
    """Whether every layer attends to all positions, so that states can be cut, shared and padded inside.

    Sliding windows count cache slots, not positions, and recurrent layers have no slots at all.
    """
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def new_cache(config: Any) -> Cache:
    """An empty cache for a model of ``config``."""
    cache = DynamicCache(config=config)
    if plain(config):
        cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    differ = map(ne, first, second)  # without a line of Python for each token: prompts have thousands
    return next(compress(count(), differ), min(len(first), len(second)))


@frozen(eq=False)
class Known:
    """Tokens and their states.

    ``layers`` holds of each layer keys and values (1, heads, tokens, head size), of the tokens after those
    of ``parent``, whose states many sequences share.
    """

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    parent: Known | None = None

    @cached_property
    def held(self) -> dict[int, int]:
        """Address and bytes of the memory that ``layers`` keeps; the parent's is not in it."""
        storages = (states.untyped_storage() for states in chain.from_iterable(self.layers))
        return {storage.data_ptr(): storage.nbytes() for storage in storages}

    @property
    def start(self) -> int:
        """The first token whose states are in ``layers``."""
        return len(self.parent.ids) if self.parent else 0

    def states(self, layer: int, side: int, start: int, end: int) -> torch.Tensor:
        """Keys (side 0) or values (side 1) of the tokens from ``start`` to ``end``."""
        own = self.layers[layer][side][:, :, max(start - self.start, 0) : max(end - self.start, 0)]
        if self.parent is None or start >= self.start:
            return own
        before = self.parent.states(layer, side, start, min(end, self.start))
        return torch.cat([before, own], dim=2) if own.shape[2] else before

    def beginning(self, length: int) -> Known:
        """The first ``length`` tokens without a parent; up to ``STEP`` fewer when that saves the copy."""
        if self.parent is not None and length - self.start < STEP:
            return self.parent.beginning(min(length, self.start))
        states = [(self.states(at, 0, 0, length), self.states(at, 1, 0, length)) for at in range(len(self.layers))]
        return Known(self.ids[:length], states)


class Kept:
    """States from earlier calls, at most ``limit`` bytes of them: system prompts and earlier turns are computed once.

    The sequences that were used longest ago are forgotten first; the one used last is always kept.
    """

    def __init__(self, limit: int = 512 << 20) -> None:
        self.limit = limit
        self._known: list[Known] = []  # the one used last is the last

    def add(self, known: Known) -> None:
        """Remembers a sequence; one that it continues is dropped."""
        self._known = [old for old in self._known if common(old.ids, known.ids) < len(old.ids)]
        self._known.append(known)
        while len(self._known) > 1 and held_bytes(self._known) > self.limit:
            del self._known[0]

    def best(self, ids: Sequence[int]) -> tuple[int, Known | None]:
        """How many leading tokens of ``ids`` are known at most, and the sequence that begins with them."""
        length, at = max(((common(each.ids, ids), at) for at, each in enumerate(self._known)), default=(0, -1))
        if not length:
            return 0, None
        self._known.append(self._known.pop(at))
        return length, self._known[-1]


def held_bytes(sequences: Sequence[Known]) -> int:
    """What the states of ``sequences`` and their parents take, shared memory counted once."""
    found: dict[int, int] = {}
    for known in sequences:
        each: Known | None = known
        while each is not None:
            found.update(each.held)
            each = each.parent
    return sum(found.values())


def cut(cache: Cache, row: int, mask: torch.Tensor, ids: list[int], parent: Known | None = None) -> Known:
    """A copy of one row of ``cache``, behind ``parent``.

    ``mask`` (positions,) is 0 at its padding; ``ids`` are the parent's and its other tokens.
    """
    where = mask.nonzero()[:, 0]
    layers = [layer.states() for layer in cache.layers if isinstance(layer, GrowingLayer)]
    states = [(keys[row : row + 1, :, where], values[row : row + 1, :, where]) for keys, values in layers]
    return Known(ids, states, parent)


def joined(heads: Sequence[tuple[int, Known | None]], room: int, start: int = 0) -> Cache:
    """A cache with one row for each (length, sequence): its states from ``start`` to ``length``, padded on the left.

    Space is reserved for ``room`` more positions. At least one length must exceed ``start``.
    """
    layers: list[Any] = []
    length, longest = max(((length, known) for length, known in heads if known is not None), key=lambda head: head[0])
    for number, like in enumerate(longest.layers):
        layer = GrowingLayer()
        layer.lazy_initialization(*like)
        width = length - start
        rooms = [_stacked(heads, number, side, start, width + room) for side in (0, 1)]
        layer.room = (rooms[0], rooms[1])
        layer.keys, layer.values = (each[:, :, :width] for each in layer.room)
        layers.append(layer)
    return Cache(layers=layers)


def _stacked(heads: Sequence[tuple[int, Known | None]], layer: int, side: int, start: int, width: int) -> torch.Tensor:
    """Keys or values (rows, heads, width, head size) of one layer."""
    like = next(known for _, known in heads if known is not None).layers[layer][side]
    end = max(length for length, _ in heads) - start
    out = like.new_empty(len(heads), like.shape[1], width, like.shape[3])
    for row, (length, known) in enumerate(heads):
        padding = end - max(length - start, 0)
        out[row, :, :padding] = 0
        if known is not None and padding < end:
            out[row, :, padding:end] = known.states(layer, side, start, length)[0]
    return out
