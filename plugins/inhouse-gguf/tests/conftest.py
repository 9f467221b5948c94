"""A tiny model, and what the quantizer needs of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from support.tiny_llama import make_model


@define
class FakeStep:
    """What the quantizer needs of a step."""

    output: Path
    checkpoints: Path
    facts: dict[str, Any] = field(factory=dict)
    told: list[str] = field(factory=list)
    stop_at: str = ""

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        self.told.append(note)
        if self.stop_at and note.startswith(self.stop_at):
            raise KeyboardInterrupt

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)


@pytest.fixture
def step(tmp_path: Path) -> FakeStep:
    """A step with fresh folders."""
    output, checkpoints = tmp_path / "output", tmp_path / "checkpoints"
    output.mkdir()
    checkpoints.mkdir()
    return FakeStep(output, checkpoints)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 columns: a multiple of the K-quants' block."""
    return make_model(tmp_path_factory.mktemp("model") / "hf")
