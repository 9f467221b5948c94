"""``inhouse ask``"""

from __future__ import annotations

import click

from inhouse.cli.common import emit, home_option, json_option, open_kernel
from inhouse.sealed import seal

from .bundle import Bundle
from .show import find_bundle, show_answer


@click.command()
@click.argument("question")
@click.option("--bundle", type=click.Path(), help="The bundle's folder; the last run's by default.")
@home_option
@json_option
def command(question: str, bundle: str | None, home: str | None, as_json: bool) -> None:
    """Ask a bundle one QUESTION; shows thoughts, actions, observations and the answer with citations."""
    kernel = open_kernel(home)
    seal()
    with Bundle(find_bundle(kernel.home, bundle), kernel.registry) as opened:
        result = opened.ask(question)
    if as_json:
        emit(result)
    else:
        show_answer(result)
