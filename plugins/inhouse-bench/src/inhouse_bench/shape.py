"""A decoder of the Llama kind with random weights, written as an F16 GGUF tensor by tensor."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFType, GGUFWriter, LlamaFileType, TokenType
from numpy.typing import NDArray

from inhouse_gguf.convert import Planned, Progress, commit, write_tensors
from inhouse_gguf.values import Converted

SEED = 7
STD = 0.02
"""Standard deviation of the weights, as models of this kind begin (``initializer_range`` of Llama)."""

HEAD = 128
VOCABULARY = 32_000
CONTEXT = 4096
SPECIAL = ("<unk>", "<s>", "</s>")

AT_ONCE = 1 << 22
"""Random numbers drawn at once: 16 MiB."""


def _multiple(instance: Any, attribute: Any, value: int) -> None:
    if value % HEAD:
        raise ValueError(f"{attribute.name} = {value} is no multiple of {HEAD}, the width of a head")


@frozen
class Shape:
    """Llama-2 7B's dimensions, or others in its proportions: heads of 128, a hidden layer 2.6875 times as wide."""

    layers: int = 32
    width: int = field(default=4096, validator=_multiple)

    @property
    def inner(self) -> int:
        """Width of the hidden layer, a multiple of 256: K-quants have such blocks."""
        return -(-self.width * 11008 // 4096 // 256) * 256

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape (rows, columns) of each, in the file's order."""
        wide, square = (self.inner, self.width), (self.width, self.width)
        yield "token_embd.weight", (VOCABULARY, self.width)
        for number in range(self.layers):
            layer = f"blk.{number}"
            yield f"{layer}.attn_norm.weight", (self.width,)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield f"{layer}.{name}.weight", square
            yield f"{layer}.ffn_norm.weight", (self.width,)
            yield f"{layer}.ffn_gate.weight", wide
            yield f"{layer}.ffn_up.weight", wide
            yield f"{layer}.ffn_down.weight", wide[::-1]
        yield "output_norm.weight", (self.width,)
        yield "output.weight", (VOCABULARY, self.width)

    @property
    def parameters(self) -> int:
        """Weights in all."""
        return sum(int(np.prod(shape)) for _, shape in self.tensors())


class RandomTensor(Converted):
    """Normal numbers, the same for the same ``number``; ones for a vector. None of them is held.

    The head's rows of special tokens are zero: a greedy answer never ends by itself.
    """

    def __init__(self, name: str, shape: tuple[int, ...], number: int) -> None:
        wanted = "F16" if len(shape) > 1 else "F32"
        super().__init__(name, np.broadcast_to(np.float32(1), shape), "F32", wanted)  # one number, seen as all
        self.number = number

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Blocks of rows in the file's format."""
        if self.values.ndim == 1:
            yield np.ascontiguousarray(self.values)
            return
        draw = np.random.default_rng([SEED, self.number])
        count, columns = self.values.shape
        rows = max(len(SPECIAL), AT_ONCE // columns)
        for start in range(0, count, rows):
            block = draw.standard_normal((min(rows, count - start), columns), dtype=np.float32)
            block *= np.float32(STD)
            if start == 0 and self.name == "output.weight":
                block[: len(SPECIAL)] = 0
            yield self.rounded(block)


def write_model(shape: Shape, target: Path, progress: Progress) -> None:
    """Writes the GGUF ``target``, which has its name only when it is whole. The same shape gives the same bytes."""
    aside = target.with_name(target.name + ".part")
    tensors = [
        Planned(name, dims, "F16" if len(dims) > 1 else "F32", partial(RandomTensor, name, dims, number))
        for number, (name, dims) in enumerate(shape.tensors())
    ]
    writer = GGUFWriter(aside, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    try:
        _describe(writer, shape)
        write_tensors(writer, tensors, progress)
        writer.close()
        commit(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)


def _describe(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_type(GGUFType.MODEL)
    writer.add_name(f"random {shape.layers} x {shape.width}")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)  # GGML_QNT_VERSION of ggml.h
    writer.add_block_count(shape.layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.width // HEAD)
    writer.add_head_count_kv(shape.width // HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(VOCABULARY)
    tokens = [*SPECIAL, *(f"<0x{number:02X}>" for number in range(256)), *itertools.islice(_words(), VOCABULARY - 259)]
    kinds = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(VOCABULARY)])
    writer.add_token_types([*kinds, *[TokenType.NORMAL] * (VOCABULARY - len(kinds))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def _words() -> Iterator[str]:
    """a, ▁a, b … zzz, ▁zzz: made up, in sentencepiece's spelling."""
    for length in range(1, 4):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield from ("".join(letters), "▁" + "".join(letters))
