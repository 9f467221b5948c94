"""What lies between products on a CPU in bf16, compiled by the machine's C compiler; without one torch computes it."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_POINTER, _COUNT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_SIGNATURES: dict[str, list[Any]] = {
    "gated": [_POINTER] * 2 + [_COUNT] * 2,
    "gated_backward": [_POINTER] * 3 + [_COUNT] * 2,
    "norm": [_POINTER] * 4 + [_COUNT] * 2 + [_FLOAT],
    "norm_backward": [_POINTER] * 6 + [_COUNT] * 3,
    "slopes": [_POINTER] * 3 + [_COUNT] * 2,
}
_WITH_AVX512_BF16: dict[str, list[Any]] = {
    "attend": [_POINTER] * 9 + [_FLOAT],
    "attend_backward": [_POINTER] * 13 + [_FLOAT],
}


@lru_cache
def library() -> Any:
    """The functions of ``kernels.c`` and ``attention.c``, compiled for this process, or None where that does not work.

    That takes a second. They use the OpenMP that torch has loaded, so its number of threads; a library that found
    another one is None.
    """
    name, *more = shlex.split(os.environ.get("CC", "")) or ["cc"]
    compiler = shutil.which(name)
    if compiler is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "kernels.so"
            sources = [str(Path(__file__).with_name(name)) for name in ("kernels.c", "attention.c")]
            command = [compiler, *more, *_flags(), "-shared", "-fPIC", *sources, "-o", str(made), "-lm"]
            subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=60)  # noqa: S603
            found = ctypes.CDLL(str(made))
    except (OSError, subprocess.SubprocessError):  # no such flags, no room, or a compiler for another machine
        return None
    if not _shares_threads(found):
        return None
    more_here = _WITH_AVX512_BF16 if hasattr(found, "attend") else {}
    for each, types in {**_SIGNATURES, **more_here}.items():
        function = getattr(found, each)
        function.argtypes, function.restype = types, None
    if more_here:
        found.attend_work.argtypes, found.attend_work.restype = [_POINTER, ctypes.c_int], _COUNT
    return found


def _shares_threads(found: Any) -> bool:
    """Whether the library found the OpenMP that torch uses: two would each have threads of their own."""
    count = torch.get_num_threads()
    torch.set_num_threads(count + 1)
    try:
        return bool(found.omp_get_max_threads() == count + 1)
    finally:
        torch.set_num_threads(count)


def _flags() -> list[str]:
    flags = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
    return [*flags, "-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else flags


def kernel(*tensors: Tensor, wide: tuple[Tensor, ...] = ()) -> Any:
    """:func:`library` where all ``tensors`` are dense, bf16 and on the CPU, and ``wide`` alike in fp32; else None."""
    fits = all(each.dtype == torch.bfloat16 and each.is_contiguous() for each in tensors) and all(
        each.dtype == torch.float32 and each.is_contiguous() for each in wide
    )
    return library() if fits and all(each.device.type == "cpu" for each in (*tensors, *wide)) else None


def call(function: Any, *arguments: Tensor | int | float | None) -> None:
    """Calls a function of the library; of a tensor it gets the address, so form and format have to be right."""
    function(*(each.data_ptr() if isinstance(each, Tensor) else each for each in arguments))
