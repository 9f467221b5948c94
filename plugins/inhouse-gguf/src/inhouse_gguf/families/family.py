"""What has to be known of an architecture to write it as GGUF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter
from numpy.typing import NDArray

from inhouse_gguf.source import Source, SourceTensor
from inhouse_gguf.values import Converted

Array = NDArray[Any]


def _unchanged(source: Source, name: str, values: Array) -> Array:
    return values


def _nothing(source: Source) -> Sequence[Converted]:
    return ()


@frozen
class Family:
    """One architecture.

    ``parameters`` writes metadata, and raises ``DataError`` for settings that llama.cpp would compute otherwise than
    transformers; ``arrange`` reorders a tensor's rows (a view, in the stored dtype), and those of an adapter's lora_b
    with them; ``made`` gives float32 tensors that the folder lacks; ``skip`` are ends of names that are not
    converted; ``transposed`` are ends of the names of matrices that are stored with their columns first.
    ``layers`` is the configuration's key for their number, ``tied`` whether the head is the embedding where the
    configuration does not say, ``norm_shift`` what llama.cpp wants added to the weights of norms.
    """

    arch: MODEL_ARCH
    parameters: Callable[[GGUFWriter, Source], None]
    arrange: Callable[[Source, str, Array], Array] = _unchanged
    made: Callable[[Source], Sequence[Converted]] = _nothing
    skip: tuple[str, ...] = (".rotary_emb.inv_freq",)
    transposed: tuple[str, ...] = ()
    layers: str = "num_hidden_layers"
    tied: bool = False
    norm_shift: float = 0.0

    @property
    def arch_name(self) -> str:
        """The name in ``general.architecture``."""
        return MODEL_ARCH_NAMES[self.arch]

    def shape(self, tensor: SourceTensor) -> tuple[int, ...]:
        """Rows and columns as GGUF has them."""
        return tensor.shape[::-1] if tensor.name.endswith(self.transposed) else tensor.shape

    def load(self, source: Source, tensor: SourceTensor) -> Array:
        """The values as GGUF has them, in the stored dtype and without the shift of norms."""
        values = tensor.load()
        if tensor.name.endswith(self.transposed):
            values = values.T
        return self.arrange(source, tensor.name, values)

    def is_tied(self, source: Source) -> bool:
        """Whether the head is the embedding."""
        return bool(source.config.get("tie_word_embeddings", self.tied))

    def shift(self, name: str) -> float:
        """What is added to the tensor ``name``."""
        return self.norm_shift if name.endswith("norm.weight") else 0.0
