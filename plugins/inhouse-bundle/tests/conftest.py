"""A whole small run that ends with a bundle."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from inhouse import Kernel, Recipe
from inhouse.plugins import Registry

HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>'

RECIPE = """
name = "shop"
seed = 3
[target]
context = 512
[base]
use = "tiny"
[steps.docs]
stage = "source"
use = "docs"
before = "knowledge"
[knowledge]
use = "lines"
[knowledge.letters]
table = "table.bin"
[agent]
use = "echo"
tools = ["shelf", "second"]
[agent.echo]
system = "system.txt"
[tools.shelf]
book = "book.txt"
[tools.second]
use = "shelf"
book = "book.txt"
[evaluate]
use = "canned"
[evaluate.canned]
report = "report.json"
[bundle]
use = "folder"
[bundle.folder]
example = "Where's order 48213?"
"""


def entry(step: str, solved: int, **more: object) -> dict[str, object]:
    """Figures of one model as the evaluator writes them."""
    return {
        "step": step,
        "kind": "model/gguf",
        "solved": solved,
        "total": 80,
        "low": max(0.0, solved / 80 - 0.1),
        "high": min(1.0, solved / 80 + 0.09),
        "kinds": {"order": {"solved": solved // 2, "total": 40}, HOSTILE: {"solved": 1, "total": 2}},
        "loss": 1.234,
        "bytes": 105_400_000,
        "memory": 230_000_000,
        "tokens_per_second": 126.2,
        "type": "q4_k_m",
        "bits_per_weight": 6.25,
        "runtime": "llamacpp",
        "examples": 0,
        **more,
    }


def report() -> dict[str, object]:
    """A report whose every text is hostile."""
    failed = {
        "id": HOSTILE,
        "kind": HOSTILE,
        "question": HOSTILE,
        "solved": False,
        "why_not": [HOSTILE, "does not cite [returns]"],
        "calls": [{"tool": HOSTILE, "arguments": {HOSTILE: HOSTILE}, "observation": HOSTILE}],
        "answer": HOSTILE,
        "outcome": "answered",
    }
    return {
        "tasks": {
            "base": entry("base", 0, examples=12, type="BF16", bits_per_weight=16.0),
            "tuned": entry("finetune", 66),
            "quantized": entry("quantize", 61),
            "others": {"$x_{1}$ " + HOSTILE: entry("other", 9, loss=None, memory=float("nan"))},
        },
        "total": 80,
        "confidence": 0.95,
        "minimum": 0.65,
        "paired": {"base_tuned": {"both": 0, "only_first": 0, "only_second": 66, "neither": 14, "p": 1e-20}},
        "verdicts": {"base": [failed, {**failed, "solved": True}], "tuned": [], "others": {}},
    }


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The core's plugin, this distribution's, and the parts for tests."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "parts"))
    modules = {"core": "inhouse.builtin", "bundle": "inhouse_bundle", "parts": "bundle_parts"}
    found = Registry([EntryPoint(name, module, "inhouse") for name, module in modules.items()])
    assert found.failures == []
    return found


@pytest.fixture
def kernel(tmp_path: Path, registry: Registry) -> Kernel:
    """A kernel with a home of its own."""
    return Kernel(tmp_path / "home", registry=registry)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe with its files."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "system.txt").write_text('You are "the desk".\nUse shelf or second.\n')
    (folder / "book.txt").write_text("book: ")
    (folder / "table.bin").write_bytes(b" [table]")
    (folder / "report.json").write_text(json.dumps(report()))
    return Recipe.load(folder / "recipe.toml")
