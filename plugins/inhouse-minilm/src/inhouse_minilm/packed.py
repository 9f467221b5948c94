"""A BERT encoder over texts that lie one behind the other, with no padding between them.

What a text becomes does not depend on its neighbours, bit for bit (on one machine): every
operation works on one row alone, or on one text. Model: Devlin et al. 2018, as ``BertModel`` of transformers has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional

Dtype = Literal["auto", "float32", "bfloat16"]

FEW_ROWS, MANY_ROWS = 16, 64
"""Rows of a product are a multiple of it, of the second from 512 on: oneDNN keeps code and memory for every shape that
it has seen, and below 8 rows torch multiplies float32 in another order."""


def compute_dtype(wanted: Dtype) -> torch.dtype:
    """The format of products: as told, or bfloat16 where the processor multiplies it by itself.

    Its features are asked and its speed is not measured, so that one machine always gives the same vectors.
    """
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    able = (getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("avx512_bf16", "amx_tile"))
    return torch.bfloat16 if any(each() for each in able) else torch.float32


def fits(config: Any) -> bool:
    """Whether :class:`PackedBert` computes what a model with this configuration does."""
    return (
        config.model_type == "bert"
        and config.hidden_act == "gelu"
        and not config.is_decoder
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
    )


def _fuses(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there with the products that torch.compile uses, which torch promises nobody."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Linear:
    """A product with weights in oneDNN's own order, with GELU or an addition at its end where asked."""

    def __init__(self, layers: Sequence[torch.nn.Linear], dtype: torch.dtype) -> None:
        weight = torch.cat([each.weight.detach() for each in layers]).to(dtype)
        self._bias = torch.cat([each.bias.detach() for each in layers]).to(dtype)
        self._fused = _fuses(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._fused else weight

    def __call__(self, x: Tensor) -> Tensor:
        if not self._fused:
            return functional.linear(x, self._weight, self._bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return found

    def gelu(self, x: Tensor) -> Tensor:
        if not self._fused:
            return functional.gelu(self(x))
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "gelu", [], "none")
        return found

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        if not self._fused:
            return self(x) + other
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")
        return found


class _Norm:
    def __init__(self, layer: torch.nn.LayerNorm, dtype: torch.dtype) -> None:
        self._weight, self._bias = layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)
        self._eps = layer.eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._eps)


@frozen
class _Run:
    """``count`` texts of ``length`` tokens each, from row ``start`` on."""

    start: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count * self.length)


class _Layer:
    def __init__(self, layer: Any, heads: int, dtype: torch.dtype) -> None:
        own = layer.attention.self
        self._heads = heads
        self._projection = _Linear([own.query, own.key, own.value], dtype)
        self._out = _Linear([layer.attention.output.dense], dtype)
        self._out_norm = _Norm(layer.attention.output.LayerNorm, dtype)
        self._up = _Linear([layer.intermediate.dense], dtype)
        self._down = _Linear([layer.output.dense], dtype)
        self._down_norm = _Norm(layer.output.LayerNorm, dtype)

    def __call__(self, x: Tensor, runs: Sequence[_Run]) -> Tensor:
        x = self._out_norm(self._out.plus(self._attend(self._projection(x), runs), x))
        return self._down_norm(self._down.plus(self._up.gelu(x), x))

    def _attend(self, projected: Tensor, runs: Sequence[_Run]) -> Tensor:
        width = projected.shape[1] // 3
        mixed = projected.new_zeros(len(projected), width)
        for run in runs:
            shape = (run.count, run.length, 3, self._heads, width // self._heads)
            # in float32: torch converts for each product of a bfloat16 attention anew, which takes a fifth longer
            q, k, v = projected[run.rows].view(shape).permute(2, 0, 3, 1, 4).float()
            found = functional.scaled_dot_product_attention(q, k, v)
            mixed[run.rows].view(run.count, run.length, self._heads, -1).copy_(found.transpose(1, 2))
        return mixed


class PackedBert:
    """Called with the token ids of texts of descending length; gives one vector each, float32 (texts, dimension).

    ``model`` is a ``BertModel`` that :func:`fits`; its weights are copied in ``dtype``.
    """

    def __init__(self, model: Any, *, pooling: Literal["mean", "cls"], dtype: torch.dtype) -> None:
        given = model.embeddings
        self._words = given.word_embeddings.weight.detach()
        self._places = given.position_embeddings.weight.detach()
        self._types = given.token_type_embeddings.weight.detach()
        self._norm = _Norm(given.LayerNorm, torch.float32)
        heads = model.config.num_attention_heads
        self._layers = [_Layer(each, heads, dtype) for each in model.encoder.layer]
        self._pooling = pooling
        self._dtype = dtype
        self.dtype = str(dtype).removeprefix("torch.")

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Tensor:
        """``types``: the token types of a pair of texts, 0 and 1; all 0 without."""
        runs = list(_runs([len(each) for each in texts]))
        x = self._norm(self._embedded(texts, types)).to(self._dtype)
        for layer in self._layers:
            x = layer(x, runs)
        return torch.cat([self._pooled(x[run.rows].view(run.count, run.length, -1)) for run in runs])

    def _embedded(self, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None) -> Tensor:
        """Words, places and types of all tokens (rows, dimension), and rows of zeros behind them."""
        ids = torch.tensor([token for text in texts for token in text])
        places = torch.cat([torch.arange(len(text)) for text in texts])
        found = functional.embedding(ids, self._words) + functional.embedding(places, self._places)
        if types is None:
            found += self._types[0]
        else:
            found += functional.embedding(torch.tensor([each for text in types for each in text]), self._types)
        return functional.pad(found, (0, 0, 0, -len(found) % (FEW_ROWS if len(found) < 512 else MANY_ROWS)))

    def _pooled(self, states: Tensor) -> Tensor:
        """(texts, length, dimension) to float32 (texts, dimension)."""
        return states[:, 0].float() if self._pooling == "cls" else states.float().mean(dim=1)


def _runs(lengths: Sequence[int]) -> Iterator[_Run]:
    start = 0
    for length, alike in groupby(lengths):
        count = len(list(alike))
        yield _Run(start, count, length)
        start += count * length
