"""``inhouse chat``"""

from __future__ import annotations

import click

from inhouse.cli.common import home_option, open_kernel
from inhouse.sealed import seal
from inhouse.values import Message

from .bundle import Bundle
from .show import find_bundle, show_answer


@click.command()
@click.option("--bundle", type=click.Path(), help="The bundle's folder; the last run's by default.")
@click.option("--memory", default=2, show_default=True, help="How many earlier questions the agent is shown.")
@home_option
def command(bundle: str | None, memory: int, home: str | None) -> None:
    """Talk with a bundle; an empty line or Ctrl-D ends."""
    kernel = open_kernel(home)
    seal()
    history: list[Message] = []
    with Bundle(find_bundle(kernel.home, bundle), kernel.registry) as opened:
        while question := _read():
            result = opened.ask(question, history=history)
            show_answer(result)
            turns = [Message("user", question), Message("assistant", f"Thought: Answer.\nFinal: {result.text}")]
            history = [*history, *turns][-2 * memory :] if memory else []


def _read() -> str:
    try:
        return str(click.prompt("you", prompt_suffix="> ", default="", show_default=False)).strip()
    except click.exceptions.Abort:
        return ""
