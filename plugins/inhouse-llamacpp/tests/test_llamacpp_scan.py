"""Files that are no whole GGUF are refused before llama.cpp sees them: exit code 2, no crash."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFWriter

from inhouse.errors import DataError
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.runtime import LlamaCppRuntime
from inhouse_llamacpp.scan import _BLOCKS, scan


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def head(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def tensor(name: bytes, offset: int, *, columns: int = 8, kind: int = 0) -> bytes:
    return text(name) + struct.pack("<IQIQ", 1, columns, kind, offset)


ARRAY, UINT8, STRING = 9, 0, 8
TWO = head(2, 0) + tensor(b"a", 0)  # 32 bytes of F32

HOSTILE: dict[str, tuple[bytes, str]] = {
    "cut": (head(1, 1)[:12], "in the middle of its header"),
    "tensors": (head(1 << 60, 0), "1152921504606846976 tensors"),
    "keys": (head(0, 1 << 60), "1152921504606846976 keys"),
    "name": (head(0, 1) + struct.pack("<Q", 1 << 62) + b"x" * 40, "characters in a name"),
    "kind": (head(0, 1) + text(b"a") + struct.pack("<II", 77, 0), "unknown type 77"),
    "array": (head(0, 1) + text(b"a") + struct.pack("<IIQ", ARRAY, UINT8, 1 << 60), "numbers in an array"),
    "texts": (head(0, 1) + text(b"a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 60), "texts in an array"),
    "nested": (head(0, 1) + text(b"a") + struct.pack("<IIQ", ARRAY, ARRAY, 1 << 60), "array of the unknown type 9"),
    "twice": (head(0, 2) + 2 * (text(b"key") + struct.pack("<II", 4, 1)) + b"x" * 9, "the key 'key' twice"),
    "dimensions": (head(1, 0) + text(b"t") + struct.pack("<IQQQ", 1 << 31, 1, 1, 1), "2147483648 dimensions"),
    "shape": (head(1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0), "cut off"),
    "zero": (head(1, 0) + tensor(b"t", 0, columns=0), "impossible shape"),
    "block": (head(1, 0) + tensor(b"t", 0, columns=33, kind=2), "impossible shape"),
    "offset": (head(1, 0) + tensor(b"t", 1 << 63), "cut off"),
    "odd": (head(1, 0) + tensor(b"t", 4) + bytes(99), "no multiple of 32"),
    "alignment": (head(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 48), "no power of two"),
    "same-name": (TWO + tensor(b"a", 32) + bytes(160), "the tensor 'a' twice"),
    "overlap": (TWO + tensor(b"b", 0) + bytes(160), "'b' lies over another"),
    "inside": (head(2, 0) + tensor(b"a", 0, columns=64) + tensor(b"b", 32) + bytes(999), "'b' lies over another"),
    "short": (TWO + tensor(b"b", 32) + bytes(60), "is cut off: 'b'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE[name]
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(DataError, match=words) as told:
        scan(tmp_path / "model.gguf")
    assert told.value.where == str(tmp_path / "model.gguf")
    assert told.value.exit_code == 2


def test_whole_files_are_let_through(gguf: Path, tmp_path: Path) -> None:
    scan(gguf / "model.gguf")
    (tmp_path / "two.gguf").write_bytes(TWO + tensor(b"b", 32) + bytes(200))
    scan(tmp_path / "two.gguf")
    (tmp_path / "unknown.gguf").write_bytes(head(1, 0) + tensor(b"t", 0, kind=99) + bytes(99))
    scan(tmp_path / "unknown.gguf")
    writer = GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(4096)
    for number in range(3):
        writer.add_tensor(f"t{number}", np.zeros((3, 5), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    scan(tmp_path / "aligned.gguf")


def test_the_sizes_are_ggmls() -> None:
    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} == _BLOCKS


def test_every_file_cut_short_is_refused(gguf: Path, tmp_path: Path) -> None:
    whole, bad = (gguf / "model.gguf").read_bytes(), tmp_path / "model.gguf"
    for end in [*range(8, 4000, 97), len(whole) // 2, len(whole) - 64]:
        bad.write_bytes(whole[:end])
        with pytest.raises(DataError):
            scan(bad)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:200],
        lambda whole: whole[:8] + b"\xff" * 16 + whole[24:],
        lambda whole: whole[:24] + os.urandom(4096) + whole[4120:],
        lambda whole: TWO + tensor(b"b", 0) + bytes(160),
    ],
    ids=["half", "head-only", "huge-counts", "noise", "overlap"],
)
def test_the_runtime_refuses_them(gguf: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "model.gguf").write_bytes(damage((gguf / "model.gguf").read_bytes()))
    with pytest.raises(DataError) as told:
        LlamaCppRuntime(LlamaCppOptions()).open(tmp_path, context=64)
    assert told.value.exit_code == 2
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]


def test_a_file_that_only_llama_cpp_can_refuse_is_an_error_too(gguf: Path, tmp_path: Path) -> None:
    """A whole header of a model that there is not."""
    from inhouse.errors import EngineError

    whole = (gguf / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole.replace(b"llama.block_count", b"llama.block_COUNT"))
    with pytest.raises(EngineError, match="cannot load"):
        LlamaCppRuntime(LlamaCppOptions()).open(tmp_path, context=64)
