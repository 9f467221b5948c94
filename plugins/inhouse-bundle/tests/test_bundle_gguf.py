"""A GGUF with its lineage in it: every other byte that means something is the one it was."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from inhouse.errors import DataError
from inhouse_bundle import reader
from inhouse_bundle.gguf_file import KEY, copy_with_lineage, lineage_of, read_gguf


def write(path: Path, *, keys: int = 3, tensors: int = 3, alignment: int = 32, lineage: str | None = None) -> Path:
    """A GGUF with ``keys`` odd keys and tensors of sizes that need padding."""
    random = np.random.default_rng(3)
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for number in range(keys):
        writer.add_string(f"test.{number}", "ä" * number)
        if number == 1 and lineage is not None:
            writer.add_string(KEY, lineage)
    writer.add_token_list(["<a>", "b", "c"])
    for number in range(tensors):
        writer.add_tensor(f"t{number}", random.standard_normal((3, 5 + 2 * number)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    found = GGUFReader(path)
    keys = {name: each.contents() for name, each in found.fields.items() if not name.startswith("GGUF.")}
    for each in found.tensors:
        assert each.data_offset % found.alignment == 0
    return keys, {each.name: (each.tensor_type, each.data.tobytes()) for each in found.tensors}


@pytest.mark.parametrize("alignment", [8, 32, 4096])
@pytest.mark.parametrize("length", [0, 1, 7, 33, 5000])
def test_keys_and_tensors_are_unchanged(tmp_path: Path, alignment: int, length: int) -> None:
    source, target = write(tmp_path / "a.gguf", alignment=alignment), tmp_path / "b.gguf"
    assert copy_with_lineage(read_gguf(source), target, "é" * length)
    keys, tensors = contents(target)
    assert keys.pop(KEY) == "é" * length == lineage_of(target)
    assert (keys, tensors) == contents(source)
    assert read_gguf(target).tokenizer == read_gguf(source).tokenizer
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_a_lineage_that_is_there_is_replaced(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.gguf", lineage="of the base"), tmp_path / "b.gguf"
    plain = contents(write(tmp_path / "c.gguf"))
    copy_with_lineage(read_gguf(source), target, "ours")
    keys, tensors = contents(target)
    assert keys.pop(KEY) == "ours"
    assert (keys, tensors) == plain
    twice = tmp_path / "d.gguf"
    copy_with_lineage(read_gguf(target), twice, "ours")
    assert twice.read_bytes() == target.read_bytes()


@pytest.mark.parametrize(("keys", "tensors"), [(0, 1), (3, 0)])
def test_small_ones(tmp_path: Path, keys: int, tensors: int) -> None:
    source, target = write(tmp_path / "a.gguf", keys=keys, tensors=tensors), tmp_path / "b.gguf"
    copy_with_lineage(read_gguf(source), target, "x")
    found = contents(target)
    assert found[0].pop(KEY) == "x"
    assert found == contents(source)


def test_what_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    whole = write(path).read_bytes()
    for content in (b"", b"GGUF", whole[:40], b"GGUF" + b"\xff" * 60):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as GGUF"):
            read_gguf(path)
    with pytest.raises(DataError, match="cannot be read as GGUF"):
        lineage_of(path)


def head(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def tensor(name: bytes, offset: int, columns: int = 8) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, columns, 0, offset)


KEY_A = struct.pack("<Q", 1) + b"a"
ARRAY, UINT8, STRING = 9, 0, 8
HOSTILE = {
    "magic": (b"GGUX" + head(0, 0)[4:], "magic"),
    "cut": (head(0, 2)[:20], "cannot be read as GGUF"),
    "tensors": (head(1 << 60, 0), "it ends at byte"),
    "keys": (head(0, 1 << 60), "it ends at byte"),
    "name": (head(0, 1) + struct.pack("<Q", 1 << 62) + b"x" * 40, "it ends at byte"),
    "array": (head(0, 1) + KEY_A + struct.pack("<IIQ", ARRAY, UINT8, 1 << 60), "it ends at byte"),
    "texts": (head(0, 1) + KEY_A + struct.pack("<IIQ", ARRAY, STRING, 1 << 60), "it ends at byte"),
    "nested": (head(0, 1) + KEY_A + 999 * struct.pack("<IQ", ARRAY, 1 << 60), "cannot be read as GGUF"),
    "shape": (head(1, 0) + struct.pack("<QcIQQIQ", 1, b"t", 2, 1 << 63, 1 << 63, 0, 0) + bytes(99), "cannot be read"),
    "offset": (head(1, 0) + tensor(b"t", 1 << 62) + bytes(99), "it ends at byte"),
    "short": (head(2, 0) + tensor(b"a", 0) + tensor(b"b", 32) + bytes(60), "it ends at byte"),
    "overlap": (head(2, 0) + tensor(b"a", 0, 64) + tensor(b"b", 32) + bytes(999), "'b' lies over 'a'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE[name]
    (tmp_path / "a.gguf").write_bytes(content)
    for read in (read_gguf, lineage_of):
        with pytest.raises(DataError, match=words) as told:
            read(tmp_path / "a.gguf")
        assert told.value.exit_code == 2
        assert told.value.where == str(tmp_path / "a.gguf")


def test_a_header_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of the file is a value in memory."""
    monkeypatch.setattr(reader, "READS", 1000)
    (tmp_path / "a.gguf").write_bytes(head(0, 1) + KEY_A + struct.pack("<IIQ", ARRAY, UINT8, 5000) + bytes(5000))
    with pytest.raises(DataError, match="more than 1,000 values"):
        read_gguf(tmp_path / "a.gguf")


def test_the_other_byte_order_is_left_alone(tmp_path: Path) -> None:
    from gguf import GGUFEndian

    path = tmp_path / "a.gguf"
    writer = GGUFWriter(path, "llama", endianess=GGUFEndian.BIG)
    writer.add_tensor("t", np.zeros((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert not copy_with_lineage(read_gguf(path), tmp_path / "b.gguf", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["a.gguf"]


def test_llama_cpp_answers_the_same(tmp_path: Path) -> None:
    """Through the runtime, with a lineage as long as a real one."""
    from inhouse.values import Request
    from inhouse_gguf.convert import convert
    from inhouse_llamacpp import LlamaCppOptions
    from inhouse_llamacpp.runtime import LlamaCppRuntime
    from support.tiny_llama import make_model

    folders = [tmp_path / "plain", tmp_path / "told"]
    for each in folders:
        each.mkdir()
    convert(make_model(tmp_path / "hf"), folders[0] / "model.gguf", "F16", lambda *_: None)
    copy_with_lineage(read_gguf(folders[0] / "model.gguf"), folders[1] / "model.gguf", '{"x": 1}' * 500)
    answers = []
    for each in folders:
        with LlamaCppRuntime(LlamaCppOptions(slots=1)).open(each, context=128, threads=1) as engine:
            (made,) = engine.generate([Request(prompt="The order 48213", max_tokens=24)])
            answers.append((made.text, made.completion_tokens))
    assert answers[0] == answers[1]
    assert answers[0][1] > 0
