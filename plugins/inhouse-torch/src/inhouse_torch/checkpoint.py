"""Training state on disk: tensors as safetensors, the rest as JSON, never half there and never pickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inhouse.errors import ArtifactError

_PREFIX = "step-"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes ``folder/step-N`` (written aside, synced, renamed), then removes older ones.

    Raises ``OSError`` when the disk is full; the checkpoint before it is still there then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, aside = folder / f"{_PREFIX}{step:08d}", folder / f".new-{step:08d}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, aside / "state.safetensors")
        (aside / "state.json").write_text(json.dumps({"step": step, **facts}), encoding="utf-8")
        for name in ("state.safetensors", "state.json"):
            _sync(aside / name)
        _sync(aside)
        if final.exists():  # the same step again, after a resume
            shutil.rmtree(final)
        aside.rename(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _sync(folder)
    for older in folder.glob(f"{_PREFIX}*"):
        if older != final:
            shutil.rmtree(older, ignore_errors=True)


def exists(folder: Path) -> bool:
    """Whether ``folder`` has a checkpoint."""
    return any(folder.glob(f"{_PREFIX}*"))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint in ``folder``, or None when there is none.

    Raises ``ArtifactError`` on one that cannot be read.
    """
    found = sorted(folder.glob(f"{_PREFIX}*"))
    if not found:
        return None
    try:
        facts: dict[str, Any] = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        return load_file(found[-1] / "state.safetensors"), facts
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            f"the checkpoint cannot be read ({error})", where=str(found[-1]), hint=f"remove {found[-1]} and run again"
        ) from error


def restore(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Copies ``tensors[prefix + name]`` into each parameter. Raises ``ArtifactError`` when they do not match."""
    for name, parameter in parameters.items():
        saved = tensors.get(prefix + name)
        if saved is None or saved.shape != parameter.shape:
            raise ArtifactError(f"the checkpoint does not fit the model: {name} is missing or of another shape")
        with torch.no_grad():
            parameter.copy_(saved)
