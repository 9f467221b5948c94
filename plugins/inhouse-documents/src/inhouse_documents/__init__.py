"""The source `documents`: a folder of Markdown, HTML, text, PDF, DOCX, CSV and JSON lines becomes a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen, validators

from inhouse import SourceSpec, hookimpl
from inhouse.errors import RecipeError
from inhouse.recipe import parse_size
from inhouse.values import is_metadata


def _size(least: int, shown: str) -> Callable[[Any, "Attribute[str]", str], None]:
    def check(_: Any, attribute: "Attribute[str]", value: str) -> None:
        try:
            size = parse_size(value, attribute.name)
        except RecipeError as error:
            raise ValueError(f"'{attribute.name}' has to be a size such as \"{shown}\", not {value!r}") from error
        if size < least:
            raise ValueError(f"'{attribute.name}' has to be at least {shown}, not {value!r}")

    return check


def _metadata(_: Any, attribute: "Attribute[dict[str, Any]]", value: dict[str, Any]) -> None:
    for key, given in value.items():
        if not key or not is_metadata(given):
            raise ValueError(
                f"'{attribute.name}' holds {key} = {given!r}: values are strings, numbers, true or false,"
                " or lists of those"
            )


@frozen
class Options:
    """Options of the source `documents`."""

    folder: Path = field(metadata={"help": "the documents: a folder, read recursively, or one file"})
    near_duplicates: float = field(
        default=0.9,
        validator=[validators.ge(0.5), validators.le(1.0)],
        metadata={
            "help": "leave out a document whose words are this similar to an earlier one's (estimated Jaccard"
            " similarity of runs of five words); 1 = exact copies only"
        },
    )
    metadata: dict[str, Any] = field(
        factory=dict,
        validator=_metadata,
        metadata={"help": "metadata of every document of this source; goes before what a document says of itself"},
    )
    seconds: int = field(
        default=60,
        validator=[validators.ge(1), validators.le(86_400)],
        metadata={
            "help": "most seconds that parsing a PDF, DOCX or HTML file may take; a PDF has as much again for each"
            " hundred pages, up to ten times"
        },
    )
    memory: str = field(
        default="1GiB",
        validator=_size(256 << 20, "256MiB"),
        metadata={"help": "most memory that the process that parses them may take"},
    )
    unpacked: str = field(
        default="200MB",
        validator=_size(1 << 20, "1MiB"),
        metadata={"help": "most bytes that a file may unpack to, and most of the text of one document"},
    )


@hookimpl
def inhouse_sources() -> Iterator[SourceSpec]:
    """Declares the source."""
    yield SourceSpec(
        name="documents",
        summary="a folder of Markdown, HTML, text, PDF, DOCX, CSV and JSON lines, as documents to search and cite",
        factory="inhouse_documents.source:DocumentsSource",
        options=Options,
        produces=("text/corpus",),
        version=2,
    )
