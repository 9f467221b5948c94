"""``inhouse events``"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from inhouse import journal, runs
from inhouse.bus import Bus
from inhouse.cli.common import emit, home_option, json_option, open_kernel


@click.command()
@click.option("--run", "key", help="A run's id; the last run by default.")
@click.option("--follow", is_flag=True, help="Go on as new events are written; Ctrl-C ends.")
@click.option("--replay", is_flag=True, help="Publish them to the subscribers of installed plugins.")
@home_option
@json_option
def command(key: str | None, follow: bool, replay: bool, home: str | None, as_json: bool) -> None:
    """Show, follow or replay the events of a run."""
    kernel = open_kernel(home)
    path = runs.last_run(kernel.home, key) / "events.jsonl"
    if replay:
        bus = Bus(run=path.parent.name, source="replay")
        kernel.registry.call("inhouse_subscribers", bus=bus, terminal=sys.stderr.isatty())
        journal.replay(path, bus, kernel.codec)
        bus.close()
        return
    if as_json:
        emit([journal.encode(each, kernel.codec) for each in journal.read(path, kernel.codec)])
        return
    _show(path, follow)


def _show(path: Path, follow: bool) -> None:
    with path.open(encoding="utf-8") as stream:
        while True:
            line = stream.readline()
            if line:
                click.echo(line.rstrip("\n"))
            elif follow:
                time.sleep(0.2)
            else:
                return
