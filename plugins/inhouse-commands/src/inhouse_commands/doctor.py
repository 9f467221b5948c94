"""``inhouse doctor``"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import click

from inhouse import options as opt
from inhouse.cli.common import emit, home_option, json_option, open_kernel, table
from inhouse.errors import InhouseError, RecipeError
from inhouse.plan import Chosen
from inhouse.plugins import Backend
from inhouse_commands.units import human_bytes


@click.command()
@home_option
@json_option
def command(home: str | None, as_json: bool) -> None:
    """Check this machine and every installed backend: what runs here, and what to install for the rest."""
    kernel = open_kernel(home)
    kernel.home.mkdir(parents=True, exist_ok=True)
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_disk_bytes": shutil.disk_usage(kernel.home).free,
        "home": str(kernel.home),
    }
    checks = [(each.spec.kind, each.spec.name, *_check(each)) for each in kernel.registry.all()]
    failures = kernel.registry.failures
    if as_json:
        backends = [{"kind": k, "name": n, "ok": ok, "reason": why} for k, n, ok, why in checks]
        emit({"machine": machine, "backends": backends, "failed": failures})
    else:
        for key, value in machine.items():
            click.echo(f"{key.removesuffix('_bytes'):10} {human_bytes(value) if key.endswith('_bytes') else value}")  # type: ignore[arg-type]
        click.echo()
        table([(k, n, "ok" if ok else "no", why) for k, n, ok, why in checks], ("kind", "name", "runs here", "why not"))
        for failure in failures:
            click.echo(f"failed: {failure.distribution} {failure.version}: {failure.reason}")
    if failures:
        sys.exit(3)


def _check(backend: Backend) -> tuple[bool, str]:
    try:
        if not hasattr(backend.load(), "probe") or backend.spec.kind in ("tool", "agent"):
            return True, ""  # those two are made with more than options
        built = opt.build(backend.spec.options, {}, folder=Path(), path=backend.spec.name, where=str)
        reason = Chosen(backend, built).ask("probe")
    except RecipeError:
        return True, ""  # has options without defaults: only a recipe can say
    except InhouseError as error:
        return False, error.message
    return not reason, str(reason or "")
