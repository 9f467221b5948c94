"""Key/value caches: one that grows in place, and the sequences that are kept between calls."""

from __future__ import annotations

from collections.abc import Sequence
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
        """Appends (batch, heads, new, head size) and returns all states so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old, before = self.get_seq_length(), self.states()
        new = old + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < new:
            self.room = (_room(before[0], key_states, new), _room(before[1], value_states, new))
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, old:new].copy_(states)
        self.keys, self.values = (room[:, :, :new] for room in self.room)
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


def _room(old: torch.Tensor, like: torch.Tensor, length: int) -> torch.Tensor:
    batch, heads, _, size = like.shape
    room = like.new_empty(batch, heads, -(-length // STEP) * STEP + STEP, size)
    if old.numel():
        room[:, :, : old.shape[-2]].copy_(old)
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
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return at
    return min(len(first), len(second))


@frozen
class Known:
    """Tokens and their states: of each layer keys and values (1, heads, tokens, head size)."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def bytes(self) -> int:
        """What the states take."""
        return sum(states.numel() * states.element_size() for layer in self.layers for states in layer)


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
        sizes = [each.bytes for each in self._known]
        while len(sizes) > 1 and sum(sizes) > self.limit:
            del sizes[0], self._known[0]

    def best(self, ids: Sequence[int]) -> tuple[int, Known | None]:
        """How many leading tokens of ``ids`` are known at most, and the sequence that begins with them."""
        length, at = max(((common(each.ids, ids), at) for at, each in enumerate(self._known)), default=(0, -1))
        if not length:
            return 0, None
        self._known.append(self._known.pop(at))
        return length, self._known[-1]


def cut(cache: Cache, row: int, mask: torch.Tensor, ids: list[int]) -> Known:
    """A copy of one row of ``cache``; ``mask`` (positions,) is 0 at its padding, ``ids`` are its other tokens."""
    where = mask.nonzero()[:, 0]
    layers = [layer.states() for layer in cache.layers if isinstance(layer, GrowingLayer)]
    return Known(ids, [(keys[row : row + 1, :, where], values[row : row + 1, :, where]) for keys, values in layers])


def joined(heads: Sequence[tuple[int, Known | None]], room: int) -> Cache:
    """A cache with one row for each (length, sequence): its first ``length`` states, padded on the left with zeros.

    Space is reserved for ``room`` more positions. At least one length must be positive.
    """
    width = max(length for length, _ in heads)
    model = next(known for length, known in heads if known is not None and length)
    layers: list[Any] = []
    for number, like in enumerate(model.layers):
        layer = GrowingLayer()
        layer.lazy_initialization(*like)
        layer.room = (_stacked(heads, number, 0, width, room), _stacked(heads, number, 1, width, room))
        layer.keys, layer.values = (each[:, :, :width] for each in layer.room)
        layers.append(layer)
    return Cache(layers=layers)


def _stacked(heads: Sequence[tuple[int, Known | None]], layer: int, side: int, width: int, room: int) -> torch.Tensor:
    _, known = max(heads, key=lambda head: head[0])
    assert known is not None
    like = known.layers[layer][side]
    out = like.new_empty(len(heads), like.shape[1], width + room, like.shape[3])
    for row, (length, known) in enumerate(heads):
        out[row, :, : width - length] = 0
        if known is not None:
            out[row, :, width - length : width] = known.layers[layer][side][0, :, :length]
    return out
