"""``inhouse bench``: a group; what is measured is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from inhouse.cli.common import emit, json_option, table
from inhouse_llamacpp import CacheType


@click.group()
def command() -> None:
    """Measure this machine with a model made on the spot."""


@command.command("seven-b")
@click.option("--folder", type=click.Path(path_type=Path), default="seven-b", show_default=True, help="Where it works.")
@click.option("--types", default="q4_k_s,q4_k_m", show_default=True, help="llama.cpp types, separated by commas.")
@click.option("--layers", type=click.IntRange(1), default=32, show_default=True, help="Layers; fewer for a trial.")
@click.option("--width", type=click.IntRange(128), default=4096, show_default=True, help="A multiple of 128.")
@click.option("--context", type=click.IntRange(64, 4096), default=2048, show_default=True, help="Tokens.")
@click.option(
    "--cache-type", type=click.Choice(get_args(CacheType)), default="f16", show_default=True, help="Key/value cache."
)
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0 = all cores.")
@click.option("--keep", is_flag=True, help="Leave the models in the folder.")
@json_option
@click.pass_context
def seven_b(
    ctx: click.Context,
    folder: Path,
    types: str,
    layers: int,
    width: int,
    context: int,
    cache_type: CacheType,
    threads: int,
    keep: bool,
    as_json: bool,
) -> None:
    """A model with the dimensions of Llama-2 7B and random weights: file, decoding rate and memory by type.

    Takes 18 GB of disk and as much memory, about half an hour on 2 cores. Exit 0: all goals are met.
    1: one is missed. 2: something is lacking. What is made stays when it is stopped, and the same command goes on.
    """
    if width % 128:
        raise click.BadParameter("is no multiple of 128, the width of a head", param_hint="--width")
    from .goals import judge
    from .shape import Shape
    from .workshop import Workshop, parse_types

    shop = Workshop(folder.absolute(), Shape(layers, width), parse_types(types), context, threads, keep, cache_type)
    try:
        figures = shop.run(Progress())
    except KeyboardInterrupt:
        click.echo(f"what is made stays in {shop.folder}; the same command goes on", err=True)
        raise
    rows = judge(figures)
    met = all(each.met is not False for each in rows)
    if as_json:
        settings = {"context": context, "cache_type": cache_type, "threads": threads}
        emit({"shape": shop.shape, **settings, "models": figures, "goals": rows, "met": met})
    else:
        table([each.line() for each in rows], ("type", "what", "measured", "goal", "met"))
    if not met:
        ctx.exit(1)


class Progress:
    """What is being done, and how far, a line for each ten percent, on standard error."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def __call__(self, doing: str, done: float = 0, total: float = 1) -> None:
        """Tells that ``done`` of ``total`` is done."""
        now = (doing, int(10 * done / total) if total else 10)
        if now != self._last:
            self._last = now
            click.echo(f"{doing}{f': {10 * now[1]} %' if now[1] else ''}", err=True)
