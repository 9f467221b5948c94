"""The shape of a model from scratch: a Llama decoder sized by one dial, everything else derived.

Widths are multiples of 256, which llama.cpp's K-quants need; a head has 64 columns. A layer
has its share of width as in nanochat (64 columns for each layer).
"""

from __future__ import annotations

import math
import re
from typing import Any

from attrs import frozen

from inhouse.errors import RecipeError

HEAD = 64
"""Columns of one attention head."""
GROUPED_FROM = 1024
"""Width from which four query heads share a key and a value head."""
DEEPEST = 80
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@frozen
class Shape:
    """``width`` columns in ``layers`` layers; ``feed_forward`` columns between; ``vocabulary`` rows."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        attention = 2 * self.width * HEAD * (self.heads + self.kv_heads)
        layer = attention + 3 * self.width * self.feed_forward + 2 * self.width
        return 2 * self.vocabulary * self.width + self.layers * layer + self.width


def by_depth(layers: int, *, vocabulary: int, context: int) -> Shape:
    """The shape of a model with so many layers."""
    width = 256 * max(1, math.ceil(layers * HEAD / 256))
    heads = width // HEAD
    return Shape(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads // 4 if width >= GROUPED_FROM else heads,
        feed_forward=256 * max(1, round(width * 8 / 3 / 256)),
        vocabulary=vocabulary,
        context=context,
    )


def by_parameters(count: int, *, vocabulary: int, context: int) -> Shape:
    """The shape whose number of parameters is nearest to ``count``, as a ratio."""
    shapes = [by_depth(layers, vocabulary=vocabulary, context=context) for layers in range(1, DEEPEST + 1)]
    return min(shapes, key=lambda shape: abs(math.log(shape.parameters / count)))


def parse_count(text: str) -> int:
    """``10M``, ``1.5B``, ``22000000``. Raises ``RecipeError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmb]?)\s*", text.lower())
    if not match or float(match[1]) <= 0:
        raise RecipeError(f"{text!r} is no number of parameters", where="parameters", hint='parameters = "10M"')
    return int(float(match[1]) * _UNITS[match[2]])


def fresh_model(shape: Shape, *, bos: int | None, eos: int | None, pad: int | None) -> Any:
    """A Llama model of that shape with random fp32 weights (torch's own generator decides them).

    What a layer adds to its input begins at zero, as in nanochat: 24,576 tokens of tinyshakespeare into the
    training of depth 6, two seeds, the held-out loss was 5.41 and 5.45, with GPT-2's scaling 5.59 and 5.62 (with
    one matrix as embedding and head).
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # progress is told through the step
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=False,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.zero_()
    return model
