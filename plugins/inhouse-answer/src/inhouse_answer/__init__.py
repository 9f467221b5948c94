"""Answers from a bundle: the commands ``ask`` and ``chat``. Python: :class:`inhouse_answer.bundle.Bundle`."""

from __future__ import annotations

from collections.abc import Iterator

from inhouse import CommandSpec, hookimpl


@hookimpl
def inhouse_commands() -> Iterator[CommandSpec]:
    """Declares the commands."""
    yield CommandSpec(name="ask", summary="Ask a bundle one question.", factory="inhouse_answer.ask:command")
    yield CommandSpec(name="chat", summary="Talk with a bundle.", factory="inhouse_answer.chat:command")
