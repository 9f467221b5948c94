"""What quantising does to a model's weights, without writing a file: llama.cpp's own functions, tensor by tensor.

``ggml_quantize_chunk`` and ``dequantize_row_*`` of ``ggml-quants.c`` are called in the library that llama-cpp-python
brings, so the values are those that the quantised file gives back, to the last bit. Which tensor gets which type is
llama.cpp's decision too: it is asked to quantise a file of the model's header only, in a dry run.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from attrs import frozen
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from inhouse.errors import DataError, EngineError
from inhouse_gguf.convert import exact_type, places, write_header
from inhouse_gguf.engine import types_in
from inhouse_gguf.families import family_of
from inhouse_gguf.ggml import library
from inhouse_gguf.source import open_source

Floats = NDArray[np.float32]

SLOW = {"Q2_K": 4, "Q4_K": 4, "Q5_K": 4, "Q6_K": 2, "IQ4_NL": 16, "IQ4_XS": 16}
"""Steps of a training that one rounding may serve where it costs more than 20 ns a weight."""


@frozen
class Rounded:
    """The tensors of one model: ``types`` by their names in the folder. See :class:`inhouse.protocols.Rounded`.

    ``transposed`` are ends of the names of matrices whose columns are rows in GGUF, where blocks lie along rows.
    """

    types: Mapping[str, str]
    every: int
    transposed: tuple[str, ...] = ()

    def round(self, name: str, values: Floats) -> Floats:
        """``values`` (rows, columns) of the tensor ``name``, as the 16-bit model holds them, after quantising.

        Several threads may call it at once. Raises ``DataError`` for a name that the model does not have.
        """
        if name not in self.types:
            raise DataError(f"the model has no tensor {name}, which was to be rounded")
        kind = self.types[name]
        if kind == "F32":
            return values
        if name.endswith(self.transposed):
            return np.ascontiguousarray(round_to(values.T, kind).T)
        return round_to(values, kind)


class GgufRounding:
    """The roundings of ``gguf``'s types; ``type`` is the name of one."""

    def __init__(self, options: Any) -> None:
        self.type: str = options.type

    def probe(self) -> str | None:
        """Whether llama.cpp is installed."""
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: pip install llama-cpp-python (compiles; needs g++ and cmake)"
        return None

    def open(self, folder: Path) -> Rounded:
        """For the model in ``folder`` (``model/hf``). Raises ``DataError`` for one that cannot be converted."""
        source = open_source(folder)
        family = family_of(source)
        named = places(source, family)
        with TemporaryDirectory(prefix="inhouse-gguf-") as aside:
            header = Path(aside) / "header.gguf"
            write_header(folder, header, exact_type(folder))
            types = types_in(header, self.type)
        found = {name: types.get(place, "F32") for name, place in named.items()}
        every = max((SLOW.get(each, 1) for each in found.values()), default=1)
        return Rounded(found, every, family.transposed)


def round_to(values: Floats, kind: str) -> Floats:
    """``values`` (rows, columns) after ggml has quantised them to the type ``kind`` (Q4_0 …) and back.

    Raises ``EngineError`` where columns are no multiple of the type's block, or the library has no such type.
    """
    type_ = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[type_]
    rows, columns = values.shape
    back = getattr(library(), f"dequantize_row_{kind.lower().replace('_k', '_K')}", None)
    if columns % block or back is None:
        raise EngineError(f"{rows} x {columns} values cannot be rounded to {kind} (blocks of {block})")
    values = np.ascontiguousarray(values, dtype=np.float32)
    packed, out = np.empty(values.size // block * size, np.uint8), np.empty_like(values)
    library().ggml_quantize_chunk(type_.value, _at(values), _at(packed), 0, rows, columns, None)
    back(_at(packed), _at(out), ctypes.c_int64(values.size))
    return out


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
