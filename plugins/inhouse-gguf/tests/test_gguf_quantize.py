"""Quantising: every type by name, honest notes, kills and crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from inhouse.errors import EngineError, StepError
from inhouse.values import Artifact
from inhouse_gguf import PLAIN_TYPES, TYPES, GgufOptions
from inhouse_gguf.convert import convert
from inhouse_gguf.engine import quantize
from inhouse_gguf.facts import metadata
from inhouse_gguf.quantizer import GgufQuantizer
from support.tiny_llama import make_model


def _run(step: Any, model: Path, type: str) -> Path:
    GgufQuantizer(GgufOptions(type=type, threads=1)).quantize(step, Artifact("model/hf", model, "digest"))
    found: Path = step.output / "model.gguf"
    return found


def test_every_type_is_known_to_llama_cpp() -> None:
    code = "import llama_cpp.llama_cpp as llama; print(*(each for each in dir(llama) if 'LLAMA_FTYPE' in each))"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    for name in TYPES:
        assert f"LLAMA_FTYPE_MOSTLY_{name.upper()}" in known or name == "f32"


@pytest.mark.parametrize(
    ("type", "kinds"),
    [
        ("f32", {"F32"}),
        ("f16", {"F16"}),
        ("bf16", {"BF16"}),
        ("q8_0", {"Q8_0"}),
        ("q4_0", {"Q4_0", "Q6_K"}),
        ("q4_k_m", {"Q4_K", "Q6_K"}),
        ("iq4_nl", {"IQ4_NL", "Q5_K", "Q6_K"}),
        ("q2_k", {"Q2_K", "Q3_K", "Q6_K"}),
    ],
)
def test_the_notes_tell_what_is_in_the_file(step: Any, model: Path, type: str, kinds: set[str]) -> None:
    path = _run(step, model, type)
    assert step.facts["type"] == type
    assert step.facts["bytes"] == path.stat().st_size
    assert set(step.facts["tensor_types"]) <= kinds
    assert sum(step.facts["tensor_types"].values()) == 15  # the embedding and 7 matrices in each of 2 layers
    low, high = {"f32": (32, 32), "f16": (16, 16.2), "bf16": (16, 16.2), "q8_0": (8.5, 8.7)}.get(type, (2.5, 6.6))
    assert low <= step.facts["bits_per_weight"] <= high
    assert list(step.output.iterdir()) == [path]


def test_rows_that_are_no_multiple_of_256_fall_back_and_are_told(step: Any, tmp_path: Path) -> None:
    _run(step, make_model(tmp_path / "hf", width=96), "q4_k_m")
    assert "Q4_K" not in step.facts["tensor_types"]
    assert step.facts["bits_per_weight"] > 5.5


def test_the_file_type_is_written(step: Any, model: Path) -> None:
    found = metadata(_run(step, model, "q4_k_m"))
    assert found["general.file_type"] == 15
    assert found["tokenizer.ggml.pre"] == "smollm"


@pytest.mark.parametrize("stop_at", ["converting blk.1", "quantising blk.1"])
def test_a_stopped_run_goes_on_to_the_same_bytes(step: Any, model: Path, tmp_path: Path, stop_at: str) -> None:
    whole = evolve(step, output=tmp_path / "a", checkpoints=tmp_path / "b")
    whole.output.mkdir()
    whole.checkpoints.mkdir()
    wanted = _run(whole, model, "q4_k_m").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        _run(evolve(step, stop_at=stop_at), model, "q4_k_m")
    assert not (step.output / "model.gguf").exists()
    again = evolve(step, told=[])
    assert _run(again, model, "q4_k_m").read_bytes() == wanted
    converted_again = any(each.startswith("converting") for each in again.told)
    assert converted_again == stop_at.startswith("converting")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_a_killed_child_is_an_error_that_says_how(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "bf16.gguf"
    convert(model, source, "BF16", lambda *_: None)

    def kill(done: int, total: int, name: str) -> None:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for each in children:
            if "inhouse_gguf.worker" in Path(f"/proc/{each}/cmdline").read_text():
                os.kill(int(each), 9)

    with pytest.raises(EngineError, match="SIGKILL"):
        quantize(source, tmp_path / "out.gguf", "q8_0", 1, kill)


def test_a_broken_source_is_an_error_with_llama_cpps_words(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    with pytest.raises((StepError, EngineError), match=r"llama\.cpp"):
        quantize(tmp_path / "bad.gguf", tmp_path / "out.gguf", "q8_0", 1, lambda *_: None)


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ValueError, match="q9_9"):
        GgufOptions(type="q9_9")
    assert GgufQuantizer(GgufOptions()).probe() is None
    assert set(PLAIN_TYPES) < set(TYPES)
