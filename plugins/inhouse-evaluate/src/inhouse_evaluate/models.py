"""Which models of a run are compared, and what is known of each before it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from inhouse.errors import RecipeError
from inhouse.values import Artifact, Json

_WEIGHTS = (".safetensors", ".gguf")
_TYPES = {"float16": ("F16", 16.0), "bfloat16": ("BF16", 16.0), "float32": ("F32", 32.0)}


@frozen
class Candidate:
    """``role``: base, tuned, quantized, or other. ``untuned`` models are shown the examples."""

    role: str
    artifact: Artifact
    untuned: bool


def candidates(models: Sequence[Artifact]) -> list[Candidate]:
    """Base (the first model), tuned (the latest model/hf), and every quantised model.

    The quantised model is the one of the step ``quantize``, or the last if no step is called so; further
    ones are ``other``. Without training there is no tuned model, and the quantised ones are untuned too.
    """
    if not models:
        raise RecipeError("there is no model to evaluate", hint="add a [base] table to the recipe")
    base = models[0]
    quantised = [model for model in models if model.stage == "quantizer"]
    trained = [model for model in models if model.kind == "model/hf" and model.stage == "trainer"]
    found = [Candidate("base", base, untuned=True)]
    if trained:
        found.append(Candidate("tuned", trained[-1], untuned=False))
    named = [model for model in quantised if model.step == "quantize"]
    chosen = (named or quantised)[-1:]
    for model in [*chosen, *(model for model in quantised if model not in chosen)]:
        role = "quantized" if model in chosen else "other"
        found.append(Candidate(role, model, untuned=not trained))
    return found


def weight_bytes(folder: Path) -> int:
    """Size of the weight files; of all files when no weights are recognised."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix in _WEIGHTS]
    return sum(path.stat().st_size for path in weights or files)


def type_and_bits(artifact: Artifact) -> tuple[str | None, float | None]:
    """Name of the weights' type and bits per weight: as the backend noted them, else from config.json."""
    kind, bits = artifact.meta.get("type"), artifact.meta.get("bits_per_weight")
    known: tuple[str | None, float | None] = (None, None)
    if artifact.kind == "model/hf":
        known = _TYPES.get(_dtype(artifact.path / "config.json"), known)
    return kind or known[0], bits or known[1]


def _dtype(config: Path) -> str:
    try:
        settings: Json = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(settings.get("dtype") or settings.get("torch_dtype") or "") if isinstance(settings, dict) else ""
