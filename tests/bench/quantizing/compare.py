"""Two GGUF files tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from gguf import GGUFReader
from gguf.quants import dequantize

STEP = 2.0**-7
"""The distance of two neighbours in bfloat16, as a share of the power of two below them."""


@frozen
class Apart:
    """How far the values of two files lie apart: in steps of bfloat16 at most, and the share that is equal."""

    steps: float
    equal: float


def differing(ours: Path, theirs: Path) -> list[str]:
    """What is not the same in both: tensors that one lacks, and those of another shape, type or content."""
    left, right = _tensors(ours), _tensors(theirs)
    found = [f"{name} is in one file only" for name in sorted(left.keys() ^ right.keys())]
    for name in sorted(left.keys() & right.keys()):
        a, b = left[name], right[name]
        if _shape(a) != _shape(b):
            found.append(f"{name} is {_shape(a)} and {_shape(b)}")
        elif a.tensor_type != b.tensor_type:
            found.append(f"{name} is {a.tensor_type.name} and {b.tensor_type.name}")
        elif not np.array_equal(a.data.view(np.uint8), b.data.view(np.uint8)):
            found.append(f"{name} ({a.tensor_type.name}) has other bytes")
    return found


def apart(ours: Path, theirs: Path, base: Path) -> Apart:
    """How far two files of merged weights lie apart; ``base`` has the same tensors before the merge.

    A step is that of the largest of the three values: where the adapter takes a weight to nearly nothing, what is
    left is as exact as the two that were added.
    """
    steps, equal, count = 0.0, 0, 0
    for a, b, before in _rows(ours, theirs, base):
        size = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(before))
        one = np.exp2(np.floor(np.log2(np.maximum(size, np.finfo(np.float32).tiny)))) * STEP
        steps = max(steps, float((np.abs(a - b) / one).max()))
        equal += int((a == b).sum())
        count += a.size
    return Apart(steps, equal / count)


def _rows(*paths: Path) -> Iterator[list[Any]]:
    """The same tensor of all files in float32, one after the other."""
    every = [_tensors(path) for path in paths]
    for name in every[0]:
        yield [dequantize(each[name].data, each[name].tensor_type) for each in every]


def _tensors(path: Path) -> dict[str, Any]:
    return {each.name: each for each in GGUFReader(path).tensors}


def _shape(tensor: Any) -> list[int]:
    return [int(each) for each in tensor.shape]
