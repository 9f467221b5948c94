"""Rounding errors are within half a step, and hostile files are refused."""

import json

import numpy as np
import pytest
from inhouse_sample_quantizer.quantizer import quantize, read

from inhouse.errors import DataError


def write(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_every_weight_is_within_half_a_step():
    values = np.random.default_rng(7).normal(size=(16, 64)).astype(np.float32)
    values[3] = 0
    q, scale = quantize(values)
    assert q.dtype == np.int8
    assert np.all(np.abs(q * scale[:, None] - values) <= scale[:, None] * 0.5 * (1 + 1e-5))


def test_bfloat16_is_read_exactly(tmp_path):
    bits = (np.array([[1.5, -2.0, 0.15625]], np.float32).view(np.uint32) >> 16).astype("<u2")
    header = {"w": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}
    write(tmp_path / "m", header, bits.tobytes())
    assert read(tmp_path / "m")["w"]().tolist() == [[1.5, -2.0, 0.15625]]


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32"},
        3,
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, entry):
    write(tmp_path / "m", {"w": entry}, bytes(8))
    with pytest.raises(DataError, match="no safetensors file"):
        read(tmp_path / "m")


def test_what_is_no_header_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(b"\xff" * 40)
    with pytest.raises(DataError):
        read(tmp_path / "m")
