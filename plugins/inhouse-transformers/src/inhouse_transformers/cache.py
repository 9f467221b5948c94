"""Key/value caches: one that grows in place, and the prefix that is kept between calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
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

    def head(self, length: int, batch: int) -> GrowingLayer:
        """The first ``length`` positions of a batch of one, for ``batch`` rows; no copy until it grows."""
        layer = GrowingLayer()
        layer.lazy_initialization(*self.states())
        layer.keys, layer.values = (each[:1, :, :length].expand(batch, -1, -1, -1) for each in self.states())
        return layer

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


class Prefix:
    """The states of one sequence, kept from call to call: an agent's system prompt is computed once."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.layers: list[GrowingLayer] = []

    def keep(self, ids: Sequence[int], cache: Cache) -> None:
        """Remembers a batch-of-one cache that holds exactly ``ids``."""
        self.ids = list(ids)
        self.layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]

    def match(self, ids: Sequence[int]) -> int:
        """How many leading tokens of ``ids`` are kept."""
        return common(self.ids, ids)

    def head(self, length: int, batch: int) -> Cache:
        """A new cache of ``batch`` rows with the first ``length`` kept positions."""
        return Cache(layers=[layer.head(length, batch) for layer in self.layers])
