"""Symmetric int8, a scale for each row: W[i, j] is about q[i, j] * scale[i]."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from inhouse.errors import DataError

WIDE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Floating types of a safetensors file, as numpy reads their bytes (bfloat16 as bits)."""


class Int8Quantizer:
    """Writes ``model.safetensors`` with ``<name>`` int8 and ``<name>.scale`` float32 (rows,) for each matrix;
    other tensors are kept as float32. The other files of the model are copied."""

    def __init__(self, options):
        self.options = options

    def quantize(self, step, model):
        tensors = read(model.path / "model.safetensors")
        written, bits, weights = {}, 0, 0
        for name in step.track(sorted(tensors), unit="tensor"):
            values = tensors[name]()
            if values.ndim == 2:
                written[name], written[f"{name}.scale"] = quantize(values, self.options.clip)
                bits += 8 * values.size + 32 * len(values)
            else:
                written[name] = values
                bits += 32 * values.size
            weights += values.size
        save_file(written, step.output / "model.safetensors")
        for path in model.path.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copy(path, step.output / path.name)
        step.note(type="int8", bits_per_weight=bits / weights)


def quantize(values, clip=1.0):
    """(int8 of the same shape, float32 scale for each row) of a float32 matrix."""
    scale = np.abs(values).max(axis=1) * clip / 127
    scale[scale == 0] = 1
    rounded = np.rint(values / scale[:, None])
    return np.clip(rounded, -127, 127).astype(np.int8), scale.astype(np.float32)


def read(path: Path):
    """Tensor name to a function that reads it as float32; the file is mapped, not loaded.

    The format is an 8-byte length, a JSON header, and the tensors' bytes (github.com/huggingface/safetensors).
    Raises ``DataError`` for a header that does not fit the file.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + length].tobytes())
        return {
            name: _reader(data[8 + length :], entry, name) for name, entry in header.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"is no safetensors file that can be quantised: {error}", where=str(path)) from error


def _reader(data, entry, name):
    begin, end = entry["data_offsets"]
    kind, shape = entry["dtype"], tuple(entry["shape"])
    if kind not in WIDE:
        raise ValueError(f"{name} is {kind}, not floating point")
    if not 0 <= begin <= end <= len(data) or end - begin != np.dtype(WIDE[kind]).itemsize * int(np.prod(shape)):
        raise ValueError(f"{name} lies outside the file")

    def values():
        raw = np.frombuffer(data[begin:end].tobytes(), WIDE[kind]).reshape(shape)
        if kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)

    return values
