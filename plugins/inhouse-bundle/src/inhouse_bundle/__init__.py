"""The packager ``folder``: what gets deployed, in one folder that works from any place it is copied to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import Attribute, field, frozen

from inhouse import Input, PackagerSpec, hookimpl


def _one_line(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if not value.isprintable():
        raise ValueError(f"'{attribute.name}' must be one line of text")


@frozen
class FolderOptions:
    """What to ask the bundle first; it is called after the recipe."""

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
        consumes=(
            Input("model/*"),
            Input("knowledge", optional=True),
            Input("report", optional=True),
            Input("report/gates", optional=True),
        ),
        produces="bundle",
        version=3,
        target=True,
    )
