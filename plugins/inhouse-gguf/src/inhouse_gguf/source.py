"""Reads a Hugging Face model folder: configuration, and tensors as views of the mapped files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from gguf.utility import LocalTensor, SafetensorsLocal
from numpy.typing import NDArray

from inhouse.errors import DataError

Array = NDArray[Any]

BROKEN = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(OverflowError, MemoryError, RecursionError),
)
"""What reading a broken safetensors header raises."""

STORED: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""safetensors dtype -> how its bytes are viewed; numpy has no bfloat16, its bits are kept as uint16."""


@frozen
class SourceTensor:
    """One tensor on disk. ``dtype`` is F32, F16 or BF16 of those that can be loaded."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    where: LocalTensor

    def load(self) -> Array:
        """The values, mapped, not read; bfloat16 as uint16 bits."""
        mapped: Array = self.where.mmap_bytes()
        return mapped.view(STORED[self.dtype]).reshape(self.shape)


@frozen
class Source:
    """A model folder: ``config`` is config.json, ``tensors`` by their names in the file."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]

    def need(self, key: str, kind: type = int) -> Any:
        """``config[key]``; raises ``DataError`` when it is missing or of another type."""
        value = self.config.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise DataError(f"{key} is missing or is no {kind.__name__}", where=str(self.folder / "config.json"))
        return value


def read_json(path: Path, *, of: str = "model") -> dict[str, Any]:
    """A JSON object from a file of a folder ``of`` this kind; raises ``DataError`` with the line of the mistake."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"there is no such file, so this is no {of} folder", where=str(path)) from None
    except json.JSONDecodeError as error:
        raise DataError(f"is no JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is no UTF-8: {error.reason}", where=str(path)) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise DataError(f"is no JSON that can be read: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise DataError("should hold a JSON object", where=str(path))
    return found


def open_source(folder: Path) -> Source:
    """Checks the folder and reads its headers (not its weights).

    Raises ``DataError`` for a missing, broken, pickled or already quantised model.
    """
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise DataError(
            "the model is quantised already",
            where=str(folder / "config.json"),
            hint="convert the 16-bit model it was made from",
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        why = f"{pickles[0].name} is a pickle, which can run code" if pickles else "there are no weights here"
        raise DataError(f"{why}; safetensors are wanted", where=str(folder))
    tensors = {each.name: each for path in files for each in read_tensors(path, strict=False)}
    return Source(folder, config, tensors)


def read_tensors(path: Path, *, strict: bool = True) -> Iterator[SourceTensor]:
    """The header of one safetensors file, checked against the file's size; raises ``DataError``.

    Tensors that are stored as anything but F32, F16 and BF16 are refused, or else (``strict`` off) only named.
    """
    size = path.stat().st_size
    try:
        found = SafetensorsLocal(path).tensors
    except BROKEN as error:
        raise DataError(f"the safetensors header is broken: {error}", where=str(path)) from error
    for name, tensor in found.items():
        if tensor.dtype not in STORED and strict:
            raise DataError(unknown_dtype(name, tensor.dtype), where=str(path))
        shape = tuple(tensor.shape)
        if not all(isinstance(n, int) and n > 0 for n in shape):
            raise DataError(f"{name} has the impossible shape {list(shape)}", where=str(path))
        span = tensor.data_range
        if not isinstance(span.offset, int) or not isinstance(span.size, int):
            raise DataError(f"the safetensors header is broken: the place of {name} is no integer", where=str(path))
        known = STORED.get(tensor.dtype)
        bytes_wanted = int(np.prod(shape, dtype=object)) * known.itemsize if known is not None else span.size
        if span.size != bytes_wanted or span.offset < 8 or span.offset + span.size > size:
            raise DataError(f"{name} lies outside the file or does not fill its shape", where=str(path))
        yield SourceTensor(name, tensor.dtype, shape, tensor)


def unknown_dtype(name: str, dtype: str) -> str:
    """What is said of a tensor that cannot be loaded."""
    return f"{name} is stored as {dtype}; F32, F16 and BF16 can be converted"
