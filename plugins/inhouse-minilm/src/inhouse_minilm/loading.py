"""Weights and tokenizer of an encoder's folder; nothing is fetched, and no pickle is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from inhouse.errors import DataError

SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Lone surrogates, which JSON may hold and UTF-8 may not, become U+FFFD."""
    return SURROGATES.sub("\ufffd", text)


def load_tokenizer(path: Path) -> Any:
    """A ``tokenizers.Tokenizer`` without padding and cutting, so that threads share no settings."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, use_fast=True).backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"the tokenizer does not load: {error}", where=str(path)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_model(path: Path, kind: str, unused: str = "pooler.") -> Any:
    """The model by transformers' class ``kind``, in float32. Weights whose names begin with ``unused`` may be missing.

    Raises ``DataError`` for files that do not load and for weights that are missing.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        model, report = getattr(transformers, kind).from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the encoder does not load: {error}", where=str(path)) from error
    # transformers fills missing weights with random ones
    absent = sorted(name for name in report["missing_keys"] if not name.startswith(unused))
    if absent:
        raise DataError(f"weights are missing: {', '.join(absent[:3])} …", where=str(path))
    return model.eval()
