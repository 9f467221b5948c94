"""ggml's base library, and its ``struct ggml_tensor`` as this process sees it."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inhouse.errors import EngineError

DIMENSIONS, SOURCES, NAME = 4, 10, 64
"""GGML_MAX_DIMS, GGML_MAX_SRC and GGML_MAX_NAME of ggml.h."""

OBJECT = 32
"""Bytes that ggml counts beside a tensor's struct (``struct ggml_object`` of ggml.c)."""


class Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ggml.h; :func:`check_layout` says whether the installed library has the same."""

    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * DIMENSIONS),
        ("nb", ctypes.c_size_t * DIMENSIONS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


OP: int = Tensor.op.offset
"""Bytes from a tensor's address to its operation."""

SRC: int = Tensor.src.offset
"""Bytes from a tensor's address to the pointers to what it is computed from."""


class _InitParams(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_: ClassVar = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


@lru_cache(maxsize=1)
def library() -> Any:
    """ggml-base, with the types of the calls that are made here; they hold no lock of Python's.

    Raises ``EngineError`` when llama-cpp-python brings none.
    """
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(str(spec.origin)).parent / "lib" if spec else Path()
    found = sorted(folder.glob("*ggml-base.*"))
    if not found:
        raise EngineError("there is no ggml-base library", where=str(folder), hint="pip install llama-cpp-python")
    loaded = ctypes.CDLL(str(found[0]))
    pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
    calls: dict[str, tuple[Any, list[Any]]] = {
        "ggml_quantize_chunk": (size, [ctypes.c_int, pointer, pointer, number, number, number, pointer]),
        "ggml_init": (pointer, [_InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_tensor_overhead": (size, []),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, number, number]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_set_name": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_nbytes": (size, [pointer]),
        "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
        "ggml_backend_buffer_is_host": (ctypes.c_bool, [pointer]),
    }
    for name, (result, arguments) in calls.items():
        call = getattr(loaded, name)
        call.restype, call.argtypes = result, arguments
    return loaded


def check_layout() -> None:
    """Makes a product of two tensors in ggml and compares what ``Tensor`` reads of it with what is known.

    Raises ``EngineError`` for a library whose tensors are laid out in another way.
    """
    ggml = library()
    overhead = ggml.ggml_tensor_overhead()
    context = ggml.ggml_init(_InitParams(8 * (overhead + 4096), None, False))
    try:
        weight = ggml.ggml_new_tensor_2d(context, 0, 32, 3)
        ggml.ggml_set_name(weight, b"blk.0.attn_q.weight")
        inputs = ggml.ggml_new_tensor_2d(context, 0, 32, 5)
        product = Tensor.from_address(ggml.ggml_mul_mat(context, weight, inputs))
        read = Tensor.from_address(weight)
        seen = {
            "size": (ctypes.sizeof(Tensor) + OBJECT, overhead),
            "type": (read.type, 0),
            "shape": (list(read.ne), [32, 3, 1, 1]),
            "strides": (list(read.nb), [4, 128, 384, 384]),
            "bytes": (read.nb[1] * read.ne[1], ggml.ggml_nbytes(weight)),
            "operation": (ggml.ggml_op_name(product.op), b"MUL_MAT"),
            "sources": (list(product.src[:3]), [weight, inputs, None]),
            "data": (read.data, ggml.ggml_get_data(weight)),
            "name": (read.name, b"blk.0.attn_q.weight"),
        }
    finally:
        ggml.ggml_free(context)
    wrong = [f"{name} is {found!r}, not {wanted!r}" for name, (found, wanted) in seen.items() if found != wanted]
    if wrong:
        raise EngineError(
            f"ggml's tensors are laid out in a way that is not known here: {'; '.join(wrong)}",
            where=library()._name,
            hint='imatrix = "off", or the llama-cpp-python that this plugin was made for: 0.3.36',
        )


def operations(*names: str) -> tuple[int, ...]:
    """The numbers of ggml's operations with these names (MUL_MAT …) in the installed library."""
    ggml = library()
    known = {ggml.ggml_op_name(number): number for number in range(64)}  # enum ggml_op has more; these come early
    return tuple(known[name.encode()] for name in names)


def values(tensor: Tensor, kind: type[np.generic]) -> NDArray[Any]:
    """A view of a tensor in this process's memory, shape (ne[3], ne[2], ne[1], ne[0]); ``kind`` has its item size."""
    shape, strides = list(tensor.ne), list(tensor.nb)
    span = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + np.dtype(kind).itemsize
    memory = (ctypes.c_char * span).from_address(tensor.data)
    return np.ndarray(shape[::-1], kind, memory, strides=strides[::-1])
