"""A tiny random model as GGUF at 16 bits, and an engine that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inhouse_gguf.convert import convert
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.runtime import LlamaCppRuntime
from support.tiny_llama import make_model


@pytest.fixture(scope="session")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as transformers has it."""
    return make_model(tmp_path_factory.mktemp("hf") / "model")


@pytest.fixture(scope="session")
def gguf(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ``model/gguf``."""
    folder = tmp_path_factory.mktemp("gguf")
    convert(hf, folder / "model.gguf", "F16", lambda *_: None)
    return folder


@pytest.fixture
def engine(gguf: Path) -> Iterator[LlamaCppEngine]:
    """An engine with four slots."""
    with LlamaCppRuntime(LlamaCppOptions(slots=4)).open(gguf, context=384, threads=1) as opened:
        yield opened
