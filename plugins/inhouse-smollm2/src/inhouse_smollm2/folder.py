"""What makes a folder a model, and how it is taken in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen
from safetensors import SafetensorError, safe_open

from inhouse.errors import DataError
from inhouse.protocols import Step

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TAKEN = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Suffixes of files that are copied; code (.py) and pickles never are."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PIECE = 16 << 20
"""Bytes that are copied at a time."""


@frozen
class ModelFolder:
    """A folder that was checked: the files to take, its config, weights (tensors' dtypes and their number)."""

    files: tuple[Path, ...]
    config: dict[str, Any]
    parameters: int
    dtypes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def context(self) -> int:
        """The context in tokens that the model was made for, 0 when its config does not say."""
        said = self.config.get("max_position_embeddings", 0)
        return said if isinstance(said, int) else 0


def check(folder: Path) -> ModelFolder:
    """Checks names, config and the headers of the weights.

    Raises ``DataError`` that says what is missing, damaged, or refused (pickles, quantised models, adapters).
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder))
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    if "adapter_config.json" in names:
        raise DataError("this is an adapter, not a model: merge it into its base first", where=str(folder))
    config = _config(folder)
    weights = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if not weights and pickles:
        raise DataError(
            f"the weights are pickled ({pickles[0]}), and loading a pickle can run code",
            where=str(folder),
            hint="take the model's safetensors, or convert it where you trust it: save_pretrained writes safetensors",
        )
    if not weights:
        raise DataError("no *.safetensors in this folder", where=str(folder))
    _shards_are_there(folder, weights)
    if not any(name in names for name in TOKENIZERS):
        raise DataError(f"no tokenizer ({' or '.join(TOKENIZERS)})", where=str(folder))
    parameters, dtypes = 0, set()
    for name in weights:
        count, kinds = _header(folder / name)
        parameters += count
        dtypes |= kinds
    files = tuple(folder / name for name in names if name.endswith(TAKEN) and not name.startswith("."))
    return ModelFolder(files, config, parameters, tuple(sorted(dtypes)))


def take(step: Step, model: ModelFolder, output: Path) -> None:
    """Copies the files with progress. Not linked: what the user changes later must not change an artifact."""
    total, done = model.bytes, 0
    step.progress(0, total, unit="B")
    for file in model.files:
        for size in _copy(file, output / file.name):
            done += size
            step.progress(done, total, unit="B", note=file.name)


def tell(step: Step, model: ModelFolder, /, **facts: Any) -> None:
    """Notes what the model is, and warns when it cannot chat."""
    names = [file.name for file in model.files]
    settings = next((file for file in model.files if file.name == "tokenizer_config.json"), None)
    if "chat_template.jinja" not in names and not (settings and "chat_template" in settings.read_text("utf-8")):
        step.notice("the model has no chat template: an agent cannot talk to it", level="warning")
    step.note(parameters=model.parameters, dtypes=list(model.dtypes), bytes=model.bytes, **facts)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no config.json: this is no model folder", where=str(folder)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON: {error}", where=str(path)) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise DataError("names no model_type", where=str(path))
    if "quantization_config" in config:
        raise DataError("the model is quantised already; a base has to be 16 or 32 bit", where=str(path))
    return config


def _shards_are_there(folder: Path, weights: list[str]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    try:
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"is no index of shards: {error}", where=str(index)) from error
    missing = sorted(str(name) for name in wanted - set(weights))
    if missing:
        raise DataError(f"names {missing[0]}, which is not there ({len(missing)} missing)", where=str(index))


def _header(path: Path) -> tuple[int, set[str]]:
    """Number of weights and their dtypes; safetensors itself checks that the offsets fit the file."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            count, dtypes = 0, set()
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                part = tensors.get_slice(name)
                size = 1
                for edge in part.get_shape():
                    size *= edge
                count += size
                dtypes.add(str(part.get_dtype()))
            return count, dtypes
    except (SafetensorError, OSError) as error:
        raise DataError(f"is damaged: {error}", where=str(path), hint="copy or fetch the file again") from error


def _copy(source: Path, goal: Path) -> Iterator[int]:
    with source.open("rb") as file, goal.open("wb") as copy:
        while piece := file.read(PIECE):
            copy.write(piece)
            yield len(piece)
        copy.flush()
        os.fsync(copy.fileno())
