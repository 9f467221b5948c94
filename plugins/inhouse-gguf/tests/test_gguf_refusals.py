"""Folders that cannot be converted: one clear line, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inhouse.errors import DataError
from inhouse_gguf.convert import convert
from support.tiny_llama import make_model


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


def _refused(folder: Path, tmp_path: Path, match: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=match):
        convert(folder, out / "model.gguf", "F16", lambda *_: None)
    assert list(out.iterdir()) == []


def _edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_unknown_architecture(folder: Path, tmp_path: Path) -> None:
    _edit(folder / "config.json", lambda each: each.update(architectures=["MambaForCausalLM"]))
    _refused(folder, tmp_path, "MambaForCausalLM.*LlamaForCausalLM")


def test_no_config(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    _refused(folder, tmp_path, "no model folder")


def test_broken_config(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text('{\n"a": 1,,\n}')
    _refused(folder, tmp_path, r"config.json:2")


def test_missing_key(folder: Path, tmp_path: Path) -> None:
    _edit(folder / "config.json", lambda each: each.pop("intermediate_size"))
    _refused(folder, tmp_path, "intermediate_size")


def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    _refused(folder, tmp_path, "pickle")


def test_quantised_models(folder: Path, tmp_path: Path) -> None:
    _edit(folder / "config.json", lambda each: each.update(quantization_config={"load_in_4bit": True}))
    _refused(folder, tmp_path, "quantised already")


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 64, b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!"])
def test_broken_safetensors(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    _refused(folder, tmp_path, "safetensors header|no token embedding")


def test_truncated_safetensors(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _refused(folder, tmp_path, "outside the file")


def test_tokenizer_larger_than_the_embedding(folder: Path, tmp_path: Path) -> None:
    _edit(
        folder / "tokenizer.json",
        lambda each: each["added_tokens"].append({**each["added_tokens"][0], "id": 600, "content": "<more>"}),
    )
    _refused(folder, tmp_path, "embedding only 512 rows")


def test_tokenizer_that_llama_cpp_does_not_know(folder: Path, tmp_path: Path) -> None:
    _edit(folder / "tokenizer.json", lambda each: each.update(pre_tokenizer={"type": "Whitespace"}))
    _refused(folder, tmp_path, "pre-tokenizer")


def test_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    _refused(folder, tmp_path, "tokenizer.json")


def test_rope_scaling_that_is_not_known(folder: Path, tmp_path: Path) -> None:
    _edit(folder / "config.json", lambda each: each.update(rope_parameters={"rope_type": "strange"}))
    _refused(folder, tmp_path, "strange")


def test_values_beyond_float16(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "hf", dtype=torch.float32)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _refused(folder, tmp_path, "beyond float16")
