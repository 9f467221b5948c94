"""``inhouse artifacts``"""

from __future__ import annotations

import time

import click

from inhouse.cli.common import emit, home_option, json_option, open_kernel, table
from inhouse.errors import ArtifactError
from inhouse_commands.units import human_bytes


@click.command()
@click.option("--verify", is_flag=True, help="Read every file and compare its digest.")
@home_option
@json_option
def command(verify: bool, home: str | None, as_json: bool) -> None:
    """List what is in the store, oldest first."""
    store = open_kernel(home).store
    manifests = store.all()
    if as_json:
        emit(manifests)
    else:
        rows = [
            (
                m.fingerprint[:12],
                m.step,
                m.plugin,
                ", ".join(p.kind for p in m.products),
                human_bytes(sum(f.size for p in m.products for f in p.files)),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(m.created)),
            )
            for m in manifests
        ]
        table(rows, ("fingerprint", "step", "plugin", "kinds", "size", "made"))
    if verify:
        damaged = [f"{m.fingerprint[:12]}/{path}" for m in manifests for path in store.verify(m)]
        if damaged:
            raise ArtifactError(
                f"damaged: {', '.join(damaged)}", where=str(store.home), hint="remove that folder and run again"
            )
        click.echo(f"{len(manifests)} steps verified", err=True)
