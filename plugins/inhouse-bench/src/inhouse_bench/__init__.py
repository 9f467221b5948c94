"""The command ``inhouse bench``: what this machine does with models of a size, which are made on the spot."""

from __future__ import annotations

from collections.abc import Iterator

from inhouse import CommandSpec, hookimpl


@hookimpl
def inhouse_commands() -> Iterator[CommandSpec]:
    """Declares the command."""
    yield CommandSpec(
        name="bench",
        summary="Measure this machine with a model made on the spot.",
        factory="inhouse_bench.command:command",
    )
