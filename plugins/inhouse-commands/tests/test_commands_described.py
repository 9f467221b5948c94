"""What is told of a backend's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from inhouse_commands.described import described


@frozen
class Options:
    """Of each sort one."""

    rank: int = field(default=8, metadata={"help": "LoRA rank"})
    data: Path | None = field(default=None, metadata={"help": "a file"})
    parameters: Mapping[str, int] = field(factory=dict)
    name: str = field(kw_only=True)


def test_options_are_described() -> None:
    assert described(Options) == [
        ("rank", "int", 8, "LoRA rank"),
        ("data", "Path | None", None, "a file"),
        ("parameters", "collections.abc.Mapping[str, int]", {}, ""),
        ("name", "str", None, ""),
    ]
