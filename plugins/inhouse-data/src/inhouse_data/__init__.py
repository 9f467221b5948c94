"""The source `jsonl`: chats for fine-tuning and texts for pre-training and knowledge, checked row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attrs import field, frozen, validators

from inhouse import SourceSpec, hookimpl


@frozen
class Options:
    """Options of the source `jsonl`."""

    chat: Path | None = field(default=None, metadata={"help": "chats: a .jsonl file, or a folder of them"})
    heldout: Path | None = field(default=None, metadata={"help": "held-out chats; else a share of chat is held out"})
    heldout_share: float = field(
        default=0.05,
        validator=validators.and_(validators.ge(0), validators.lt(1)),
        metadata={"help": "share of the chats that is held out when there is no held-out file"},
    )
    corpus: Path | None = field(
        default=None, metadata={"help": "texts: a .txt, .md or .jsonl file (rows with text), or a folder of them"}
    )
    system: Path | None = field(
        default=None, metadata={"help": "a text file: the system message of every chat that has none"}
    )
    limit: int = field(
        default=0, validator=validators.ge(0), metadata={"help": "use the first so many training rows; 0 = all"}
    )
    format: Literal["auto", "messages", "alpaca", "sharegpt"] = field(
        default="auto", metadata={"help": "how a chat is written; auto: told row by row"}
    )
    max_tokens: int = field(
        default=0,
        validator=validators.ge(0),
        metadata={"help": "leave out longer chats, estimated as UTF-8 bytes / 4; 0 = any length"},
    )
    strict: bool = field(default=False, metadata={"help": "every finding is an error"})


@hookimpl
def inhouse_sources() -> Iterator[SourceSpec]:
    """Declares the source."""
    yield SourceSpec(
        name="jsonl",
        summary="chats as JSON lines (messages, alpaca, sharegpt) and texts (text, Markdown, JSON lines)",
        factory="inhouse_data.source:JsonlSource",
        options=Options,
        produces=("text/chat", "text/corpus"),
        version=3,
    )
