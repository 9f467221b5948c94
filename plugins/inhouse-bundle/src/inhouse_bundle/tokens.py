"""Digests of a model's tokenizer and chat template, wherever its kind keeps them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from inhouse.artifacts import file_digest
from inhouse.values import Json

from .gguf_file import GgufFile
from .settings import MODEL

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")


def tokens(model: Path, gguf: GgufFile | None) -> dict[str, Json]:
    """``tokenizer`` and ``template``: in which file of the bundle, and the SHA-256; null where there is none.

    That of a tokenizer is the file's, or of the GGUF's keys ``tokenizer.*``; that of a template is the text's, and
    so the same in a GGUF and beside safetensors.
    """
    if gguf is not None:
        file = f"{MODEL}/{gguf.path.name}"
        found = {"file": file, "keys": "tokenizer.*", "sha256": gguf.tokenizer}
        return {"tokenizer": found, "template": _template(file, gguf.chat.template)}
    tokenizer = next((each for each in _TOKENIZERS if (model / each).is_file()), None)
    templates = ((name, _text(model / name)) for name in _TEMPLATES)
    name, text = next((each for each in templates if each[1]), ("", ""))
    return {
        "tokenizer": {"file": f"{MODEL}/{tokenizer}", "sha256": file_digest(model / tokenizer)} if tokenizer else None,
        "template": _template(f"{MODEL}/{name}", text),
    }


def _template(file: str, text: str) -> dict[str, Json] | None:
    return {"file": file, "sha256": hashlib.sha256(text.encode()).hexdigest()} if text else None


def _text(path: Path) -> str:
    """The template in a file; '' where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        found: Json = json.loads(text).get("chat_template") if path.suffix == ".json" else text
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
