"""The command ``inhouse tune``: a search over a trainer's options for the lowest held-out loss."""

from __future__ import annotations

from collections.abc import Iterator

from inhouse import CommandSpec, hookimpl


@hookimpl
def inhouse_commands() -> Iterator[CommandSpec]:
    """Declares the command."""
    yield CommandSpec(
        name="tune",
        summary="Search for the setting with the lowest held-out loss.",
        factory="inhouse_tune.command:command",
    )
