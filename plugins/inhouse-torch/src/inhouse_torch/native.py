"""What lies between products on a CPU in bf16, compiled by the machine's C compiler; without one torch computes it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")


@lru_cache
def library() -> Any:
    """The functions of ``kernels.c``, compiled for this process (0.4 s), or None where that does not work.

    They use the OpenMP that torch has loaded, so its number of threads.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    source = Path(__file__).with_name("kernels.c")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *_FLAGS, "-shared", "-fPIC", str(source), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  (our own source)
        try:
            return ctypes.CDLL(str(made)) if done.returncode == 0 else None
        except OSError:  # a compiler for another machine, or one whose libraries are not there
            return None


def kernel(*tensors: Tensor, wide: tuple[Tensor, ...] = ()) -> Any:
    """:func:`library` where all ``tensors`` are dense, bf16 and on the CPU, and ``wide`` alike in fp32; else None."""
    fits = all(each.dtype == torch.bfloat16 and each.is_contiguous() for each in tensors) and all(
        each.dtype == torch.float32 and each.is_contiguous() for each in wide
    )
    return library() if fits and (*tensors, *wide)[0].device.type == "cpu" else None


def call(function: Any, *arguments: Tensor | int | float) -> None:
    """Calls a C function."""
    function(*(_converted(each) for each in arguments))


def _converted(argument: Tensor | int | float) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_float(argument)
