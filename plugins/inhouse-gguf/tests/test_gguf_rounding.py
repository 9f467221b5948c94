"""Rounding: bit for bit what llama.cpp writes, and what the gguf package computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from inhouse.errors import DataError, EngineError
from inhouse.plugins import Registry
from inhouse_gguf import MATRIX_TYPES, PLAIN_TYPES, TYPES
from inhouse_gguf.convert import convert, exact_type, places
from inhouse_gguf.engine import quantize
from inhouse_gguf.families import family_of
from inhouse_gguf.rounding import GgufRounding, round_to
from inhouse_gguf.source import open_source
from inhouse_gguf.values import as_float32
from support.tiny_llama import make_model

FILES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "iq4_xs", "q6_k", "q5_k_m", "q4_k_m", "q3_k_s", "q2_k")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 columns: no multiple of the K-quants' block, so that llama.cpp falls back to other types."""
    return make_model(tmp_path_factory.mktemp("model") / "hf", width=96)


def rounding(type_: str) -> GgufRounding:
    return GgufRounding(SimpleNamespace(type=type_))


@pytest.mark.parametrize("type_", FILES)
@pytest.mark.parametrize("which", ["model", "narrow"])
def test_every_tensor_is_what_the_file_holds(
    tmp_path: Path, request: pytest.FixtureRequest, which: str, type_: str
) -> None:
    folder: Path = request.getfixturevalue(which)
    rounded = rounding(type_).open(folder)
    convert(folder, tmp_path / "exact.gguf", exact_type(folder), lambda *_: None)
    quantize(tmp_path / "exact.gguf", tmp_path / "made.gguf", type_, 1, lambda *_: None)
    held = {each.name: each for each in GGUFReader(tmp_path / "made.gguf").tensors}
    source = open_source(folder)
    family = family_of(source)
    assert rounded.types.keys() == places(source, family).keys()
    for name, place in places(source, family).items():
        stored = source.tensors[name]
        values = as_float32(np.ascontiguousarray(family.arrange(source, name, stored.load())), stored.dtype)
        wanted = gguf.dequantize(held[place].data, held[place].tensor_type)
        assert np.array_equal(rounded.round(name, values).reshape(wanted.shape), wanted), (name, rounded.types[name])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_values_are_those_of_the_gguf_package(kind: str) -> None:
    draw = np.random.default_rng(5)
    values = (draw.standard_normal((64, 256)) * np.exp(draw.standard_normal((64, 1)) * 3)).astype(np.float32)
    values[3] = 0.0
    values[4, :32] = 1.0  # no largest one
    values[5] = np.round(values[5] * 4) / 4
    type_ = GGMLQuantizationType[kind]
    wanted = gguf.dequantize(gguf.quantize(values, type_), type_)
    assert np.array_equal(round_to(values, kind), wanted)


def test_what_cannot_be_rounded_is_told(model: Path) -> None:
    with pytest.raises(DataError, match=r"no tensor model\.nowhere\.weight"):
        rounding("q4_0").open(model).round("model.nowhere.weight", np.zeros((2, 32), np.float32))
    with pytest.raises(EngineError, match="blocks of 32"):
        round_to(np.zeros((2, 48), np.float32), "Q4_0")
    with pytest.raises(EngineError, match="blocks of 256"):
        round_to(np.zeros((2, 288), np.float32), "Q6_K")


def test_a_model_that_cannot_be_converted_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        rounding("q4_0").open(tmp_path)


def test_every_type_without_a_matrix_has_a_rounding_of_its_name() -> None:
    names = {each.spec.name for each in Registry().all("rounding") if each.distribution == "inhouse-gguf"}
    assert names == set(TYPES) - {*PLAIN_TYPES, *MATRIX_TYPES}
    for each in Registry().all("rounding"):
        if each.distribution == "inhouse-gguf":
            assert each.load()(each.spec.options()).type == each.spec.name
