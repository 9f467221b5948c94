"""``inhouse plugins``"""

from __future__ import annotations

import click

from inhouse.cli.common import emit, json_option, open_kernel, table


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List plugins, the backends they bring, and what is wrong with those that failed."""
    registry = open_kernel(None).registry
    backends = [
        {"kind": each.spec.kind, "name": each.spec.name, "summary": each.spec.summary}
        | {"distribution": each.distribution, "version": each.version}
        for each in registry.all()
    ]
    if as_json:
        emit({"backends": backends, "failed": registry.failures})
        return
    table([tuple(each.values()) for each in backends], ("kind", "name", "does", "distribution", "version"))
    for failure in registry.failures:
        click.echo(f"\nfailed: {failure.distribution} {failure.version} ({failure.plugin}): {failure.reason}")
        mend = f"pip install --force-reinstall {failure.distribution}, or pip uninstall {failure.distribution}"
        click.echo(f"  try: {mend}")
