"""The packager ``folder``: what gets deployed, in one folder that works from any place it is copied to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import Attribute, field, frozen, validators

from inhouse import Input, PackagerSpec, hookimpl


def _one_line(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if not value.isprintable():
        raise ValueError(f"'{attribute.name}' must be one line of text")


@frozen
class FolderOptions:
    """How the bundle is called, and what to ask it first."""

    name: str = field(
        default="specialist",
        validator=validators.matches_re(r"[a-z0-9][a-z0-9_.-]{0,62}"),
        metadata={"help": "what the specialist is called, also in Ollama (lower case, digits, - _ .)"},
    )
    example: str = field(
        default="", validator=_one_line, metadata={"help": "a question to try first, for the model card"}
    )


@hookimpl
def inhouse_packagers() -> Iterator[PackagerSpec]:
    """Declares the packager."""
    yield PackagerSpec(
        name="folder",
        summary="a folder with model, knowledge base, settings, Modelfile, model card, report and lineage",
        factory="inhouse_bundle.packager:FolderPackager",
        options=FolderOptions,
        consumes=(Input("model/*"), Input("knowledge", optional=True), Input("report", optional=True)),
        produces="bundle",
        target=True,
    )
