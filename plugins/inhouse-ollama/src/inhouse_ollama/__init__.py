"""The packager ``ollama``: the folder that ``folder`` makes, and the model in an Ollama server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen

from inhouse import Input, PackagerSpec, hookimpl

HOST = "http://127.0.0.1:11434"
"""Where Ollama listens when nobody says otherwise."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
NAME = re.compile(
    rf"(?:[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?(?:[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(?::{_PART})?"
)
"""``[HOST/][NAMESPACE/]MODEL[:TAG]``, as Ollama's ``types/model/name.go`` allows it."""


def _one_line(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if not value.isprintable():
        raise ValueError(f"'{attribute.name}' must be one line of text")


def _address(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    """``http://NAME:PORT``; a password would stand in notices and records."""
    said = f"'{attribute.name}' must be an address like {HOST}"
    try:
        parts = urlsplit(value)
        port_is_one = parts.port != 0
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from error
    plain = value.isprintable() and not any(c.isspace() for c in value)
    if not plain or not port_is_one or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(said)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{said}, with no name, password or query in it")


def _model(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if value and not NAME.fullmatch(value):
        raise ValueError(f"'{attribute.name}' must be a name that Ollama takes: NAME:TAG of letters, digits, - _ .")


@frozen
class OllamaOptions:
    """Where the model goes. Only ``example`` decides what is in the bundle."""

    host: str = field(
        default=HOST,
        validator=_address,
        metadata={"help": "the server's address; another machine needs [run] network = true", "counts": False},
    )
    model: str = field(
        default="",
        validator=_model,
        metadata={"help": "the model's name there, NAME:TAG (empty: the recipe's name)", "counts": False},
    )
    keep: bool = field(
        default=True,
        metadata={
            "help": "keep a model of that name that this recipe did not make, under a tag of its own",
            "counts": False,
        },
    )
    example: str = field(
        default="", validator=_one_line, metadata={"help": "a question to try first, for the model card"}
    )


@hookimpl
def inhouse_packagers() -> Iterator[PackagerSpec]:
    """Declares the packager. It takes what ``folder`` takes, as GGUF only."""
    yield PackagerSpec(
        name="ollama",
        summary="the folder that folder makes, and the model in an Ollama server, checked there",
        factory="inhouse_ollama.packager:OllamaPackager",
        options=OllamaOptions,
        consumes=(
            Input("model/gguf"),
            Input("knowledge", optional=True),
            Input("report", optional=True),
            Input("report/gates", optional=True),
        ),
        produces="bundle",
        version=3,  # that of folder, whose bytes these are
        target=True,
    )
