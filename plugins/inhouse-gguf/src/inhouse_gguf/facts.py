"""What a GGUF file really is: counted from its tensors, not from its name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from attrs import frozen
from gguf import GGUFReader


@frozen
class Facts:
    """``bits_per_weight`` over all tensors; ``tensor_types`` counts the matrices (more than one dimension)."""

    parameters: int
    bits_per_weight: float
    bytes: int
    tensor_types: dict[str, int]


def read_facts(path: Path) -> Facts:
    """Counts the tensors of a GGUF file (its weights are mapped, not read)."""
    tensors = GGUFReader(path).tensors
    parameters = sum(int(each.n_elements) for each in tensors)
    stored = sum(int(each.n_bytes) for each in tensors)
    types: Counter[str] = Counter(each.tensor_type.name for each in tensors if len(each.shape) > 1)
    return Facts(
        parameters=parameters,
        bits_per_weight=round(8 * stored / parameters, 3),
        bytes=path.stat().st_size,
        tensor_types=dict(types.most_common()),
    )


def metadata(path: Path) -> dict[str, Any]:
    """The key-value pairs of a GGUF file as plain Python values."""
    return {key: each.contents() for key, each in GGUFReader(path).fields.items()}
