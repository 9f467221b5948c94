"""Commands for the workbench; each lives in the module of its name."""

from __future__ import annotations

from collections.abc import Iterator

from inhouse import CommandSpec, hookimpl


@hookimpl
def inhouse_commands() -> Iterator[CommandSpec]:
    """Declares the commands."""
    yield CommandSpec(name="init", summary="Write a recipe to start from.", factory="inhouse_commands.init:command")
    yield CommandSpec(
        name="plan",
        summary="Show what would run, what is cached, and what it needs.",
        factory="inhouse_commands.plan:command",
    )
    yield CommandSpec(
        name="report", summary="Show what the last run made and measured.", factory="inhouse_commands.report:command"
    )
    yield CommandSpec(
        name="step",
        summary="Run one stage alone: inhouse step quantizer gguf MODEL.",
        factory="inhouse_commands.step:command",
    )
    yield CommandSpec(
        name="config",
        summary="Show every value of a recipe and where it came from.",
        factory="inhouse_commands.config:command",
    )
    yield CommandSpec(
        name="artifacts", summary="List or verify what is in the store.", factory="inhouse_commands.artifacts:command"
    )
    yield CommandSpec(
        name="events", summary="Show, follow or replay the events of a run.", factory="inhouse_commands.events:command"
    )
    yield CommandSpec(
        name="doctor",
        summary="Check this machine and the installed plugins.",
        factory="inhouse_commands.doctor:command",
    )
    yield CommandSpec(
        name="verify", summary="Check every digest of a bundle.", factory="inhouse_commands.verify:command"
    )
    yield CommandSpec(
        name="diff", summary="Say what differs between two bundles.", factory="inhouse_commands.diff:command"
    )
    yield CommandSpec(
        name="reproduce",
        summary="Make a bundle again and compare every step.",
        factory="inhouse_commands.reproduce:command",
    )
