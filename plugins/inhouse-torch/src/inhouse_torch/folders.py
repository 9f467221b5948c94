"""Models as Hugging Face folders: read without running their code, written with the tokenizer as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from inhouse.errors import ArtifactError, ResourceError

_TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "chat_template*", "generation_config.json",
)  # fmt: skip


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load_model(folder: Path, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """The causal model in ``folder``, weights in ``dtype``; safetensors only, no remote code, no network.

    On a GPU as ``device`` it never lies in main memory as a whole; without one it is on the CPU. Raises
    ``ArtifactError`` on a folder without such a model and ``ResourceError`` without memory.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # progress is told through the step
    if not list(folder.glob("*.safetensors")):
        raise ArtifactError("no *.safetensors here; only safetensors are read", where=str(folder))
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device} if device is not None and device.type != "cpu" else None,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except MemoryError as error:  # a GPU's is told by training_on, with its figures
        raise ResourceError("not enough memory to load the model", where=str(folder)) from error
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"this is no causal language model that loads: {_first_line(error)}", where=str(folder)
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``. Raises ``ArtifactError`` when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"no tokenizer that loads: {_first_line(error)}", where=str(folder)) from error


def matching_tokenizer(folder: Path, model: Any) -> Any:
    """The tokenizer in ``folder``. Raises ``ArtifactError`` when it has tokens that ``model`` has no row for."""
    tokenizer = load_tokenizer(folder)
    rows, last = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values(), default=-1)
    if last >= rows:
        raise ArtifactError(
            f"the tokenizer does not match the model: it has {last + 1} tokens, the model's embedding {rows} rows",
            where=str(folder),
            hint="take tokenizer and weights from the same place",
        )
    return tokenizer


def stored_dtype(folder: Path) -> torch.dtype:
    """The 16-bit format that the folder's weights are in; bfloat16 for anything wider."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(folder, local_files_only=True).dtype
    return torch.float16 if dtype == torch.float16 else torch.bfloat16


def save_model(model: Any, source: Path, target: Path, dtype: torch.dtype) -> None:
    """Writes ``model`` in ``dtype`` to ``target``, with tokenizer and template files copied from ``source``."""
    model.to(dtype)
    model.save_pretrained(target)
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
