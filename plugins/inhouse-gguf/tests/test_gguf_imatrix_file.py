"""The file of an importance matrix: what llama.cpp's tools write, and what an enemy may."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from inhouse.errors import DataError
from inhouse_gguf.convert import convert
from inhouse_gguf.header import read_header
from inhouse_gguf.imatrix import Entry, Matrix, read_matrix, write_matrix
from inhouse_gguf.sums import Sums

draw = np.random.default_rng(3)


def entry(matrices: int = 1, columns: int = 32) -> Entry:
    return Entry(
        np.square(draw.standard_normal((matrices, columns))).astype(np.float32), np.full(matrices, 100, np.float32)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole file of three entries."""
    entries = {"blk.1.ffn_up.weight": entry(), "blk.0.attn_q.weight": entry(), "blk.0.ffn_down_exps.weight": entry(4)}
    write_matrix(Matrix(entries, 1000, ("text/chat",)), tmp_path / "made.imatrix")
    return tmp_path / "made.imatrix"


def test_it_is_the_file_that_llama_cpp_reads(path: Path) -> None:
    read = GGUFReader(path)
    keys = {name: each.contents() for name, each in read.fields.items()}
    assert keys["general.type"] == "imatrix"
    assert "general.architecture" not in keys
    assert keys["imatrix.datasets"] == ["text/chat"]
    assert (keys["imatrix.chunk_count"], keys["imatrix.chunk_size"]) == (2, 512)
    shapes = {each.name: (each.tensor_type.name, each.shape.tolist()) for each in read.tensors}
    assert list(shapes)[:2] == ["blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts"]
    assert shapes["blk.0.attn_q.weight.in_sum2"] == ("F32", [32, 1])
    assert shapes["blk.0.attn_q.weight.counts"] == ("F32", [1, 1])
    assert shapes["blk.0.ffn_down_exps.weight.in_sum2"] == ("F32", [32, 4])
    assert shapes["blk.0.ffn_down_exps.weight.counts"] == ("F32", [1, 4])


def test_what_was_written_is_read(path: Path) -> None:
    found = read_matrix(path)
    assert (found.tokens, found.datasets, len(found.entries)) == (1000, ("text/chat",), 3)
    again = path.with_name("again.imatrix")
    write_matrix(found, again)
    assert again.read_bytes() == path.read_bytes()
    raw = {each.name: each.data for each in GGUFReader(path).tensors}
    for name, each in found.entries.items():
        assert np.array_equal(each.sums, raw[name + ".in_sum2"])
        assert np.array_equal(each.means(), each.sums.reshape(-1) / 100)


def test_an_expert_that_was_never_chosen_counts_one() -> None:
    found = Entry(np.array([[4, 8], [0, 0]], np.float32), np.array([2, 0], np.float32))
    assert found.means().tolist() == [2, 4, 1, 1]


def test_headers_are_those_of_the_gguf_package(path: Path, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "model.gguf", "BF16", lambda *_: None)
    for file in (path, tmp_path / "model.gguf"):
        header, read = read_header(file), GGUFReader(file)
        wanted = [(e.name, tuple(e.shape.tolist()), e.tensor_type, e.data_offset, e.n_bytes) for e in read.tensors]
        assert [(e.name, e.shape, e.type, e.offset, e.bytes) for e in header.tensors.values()] == wanted
        for name, value in header.keys.items():
            if value is not None:
                assert read.fields[name].contents() == value


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def head(tensors: int, keys: int, *, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


ARRAY, UINT8, STRING = 9, 0, 8
KIND = text(b"general.type") + struct.pack("<I", STRING) + text(b"imatrix")

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"GG", "no GGUF"),
    "legacy": (struct.pack("<ii", 1, 5) + b"blk.0" * 9, "no GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "version 50331648"),
    "version": (head(0, 0, version=9), "version 9"),
    "cut": (head(1, 1)[:12], "in the middle of its header"),
    "tensors": (head(1 << 60, 0), "1152921504606846976 tensors"),
    "keys": (head(0, 1 << 60), "1152921504606846976 keys"),
    "name": (head(0, 1) + struct.pack("<Q", 1 << 62) + b"x" * 40, "characters in a name"),
    "no-utf8": (head(0, 1) + text(b"\xff\xfe") + struct.pack("<II", 4, 0) + b"x" * 9, "no UTF-8"),
    "kind": (head(0, 1) + text(b"a") + struct.pack("<II", 77, 0), "unknown type 77"),
    "array": (head(0, 1) + text(b"a") + struct.pack("<IIQ", ARRAY, UINT8, 1 << 60), "numbers in an array"),
    "texts": (head(0, 1) + text(b"a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 60), "texts in an array"),
    "nested": (head(0, 1) + text(b"a") + struct.pack("<IIQ", ARRAY, ARRAY, 1 << 60), "arrays in an array"),
    "twice": (head(0, 2) + 2 * (text(b"key") + struct.pack("<II", 4, 1)) + b"x" * 9, "the key key twice"),
    "dimensions": (head(1, 0) + text(b"t") + struct.pack("<IQQQ", 1 << 31, 1, 1, 1), "2147483648 dimensions"),
    "shape": (head(1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0), "cut off"),
    "zero": (head(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0) + b"x" * 9, "impossible shape"),
    "stored": (head(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 4, 99, 0) + b"x" * 9, "unknown type 99"),
    "offset": (head(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 1 << 63) + b"x" * 9, "cut off"),
    "alignment": (head(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0), "power of two"),
    "nothing": (head(0, 1) + KIND, "no importance of any weight"),
    "other": (head(0, 0) + b"x" * 64, "type None, no importance matrix"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE[name]
    (tmp_path / "bad.imatrix").write_bytes(content)
    with pytest.raises(DataError, match=words) as told:
        read_matrix(tmp_path / "bad.imatrix")
    assert told.value.where == str(tmp_path / "bad.imatrix")


def test_files_cut_anywhere_or_with_any_byte_changed_are_refused_or_read(path: Path, tmp_path: Path) -> None:
    whole, bad = path.read_bytes(), tmp_path / "bad.imatrix"
    for end in range(0, len(whole) - 128, 7):  # the last bytes may be padding
        bad.write_bytes(whole[:end])
        with pytest.raises(DataError):
            read_matrix(bad)
    refused = 0
    for at in range(0, len(whole) - 800, 3):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_matrix(bad)
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda each: each.sums.__setitem__((0, 3), -1), "negative"),
        (lambda each: each.sums.__setitem__((0, 3), np.nan), "no numbers"),
        (lambda each: each.sums.__setitem__((0, 3), np.inf), "no numbers"),
        (lambda each: each.counts.__setitem__(0, 0), "counted 0 times"),
        (lambda each: each.counts.__setitem__(0, -4), "counts that cannot be: -4"),
        (lambda each: each.counts.__setitem__(0, 1e30), "counts that cannot be: 1e\\+30"),
        (lambda each: each.counts.__setitem__(0, np.nan), "counts that cannot be"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, spoil: Callable[[Entry], None], words: str) -> None:
    bad = entry()
    spoil(bad)
    write_matrix(Matrix({"blk.0.attn_q.weight": bad}), tmp_path / "bad.imatrix")
    with pytest.raises(DataError, match=words) as told:
        read_matrix(tmp_path / "bad.imatrix")
    assert "blk.0.attn_q.weight" in told.value.message


def test_sums_without_counts_and_other_kinds_are_refused(path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.imatrix"
    bad.write_bytes(path.read_bytes().replace(b"attn_q.weight.counts", b"attn_q.weight.cOunts"))
    with pytest.raises(DataError, match=r"sums for blk\.0\.attn_q\.weight and no counts"):
        read_matrix(bad)
    bad.write_bytes(path.read_bytes().replace(b"imatrix", b"adapter", 1))
    with pytest.raises(DataError, match="of type 'adapter'"):
        read_matrix(bad)
    with pytest.raises(DataError, match="cannot read the file"):
        read_matrix(tmp_path)
    with pytest.raises(DataError, match="cannot read the file"):
        read_matrix(tmp_path / "nowhere")


def test_sums_of_experts_and_of_many_matrices() -> None:
    sums = Sums()
    inputs = draw.standard_normal((20, 2, 8)).astype(np.float32)
    chosen = np.stack([draw.permutation(5)[:4] for _ in range(20)]).astype(np.int32)
    for half in (slice(0, 12), slice(12, 20)):
        sums.add_chosen("experts", inputs[half], chosen[half], 6)
    wanted, counts = np.zeros((6, 8)), np.zeros(6)
    for token in range(20):
        for slot, expert in enumerate(chosen[token]):
            wanted[expert] += np.square(inputs[token, slot % 2])
            counts[expert] += 1
    np.testing.assert_allclose(sums.squares["experts"], wanted, rtol=1e-5)
    assert sums.counts["experts"].tolist() == counts.tolist() and counts[5] == 0
    many = draw.standard_normal((1, 6, 5, 8)).astype(np.float32)
    sums.add("many", many, (1, 3))
    np.testing.assert_allclose(sums.squares["many"], np.square(many[0]).reshape(2, 3, 5, 8).sum((0, 2)), rtol=1e-5)
    assert sums.counts["many"].tolist() == [10, 10, 10]
    with pytest.raises(DataError, match="what goes into broken"):
        sums.add("broken", np.full((1, 1, 2, 4), 1e30, np.float32))
