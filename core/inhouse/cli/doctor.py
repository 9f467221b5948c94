"""``inhouse doctor``"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Any

import click

from inhouse.cli.common import emit, home_option, human_bytes, json_option, open_kernel, table
from inhouse.errors import InhouseError


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
    if failures or not all(ok for _, _, ok, _ in checks):
        sys.exit(3 if failures else 0)


def _check(backend: Any) -> tuple[bool, str]:
    try:
        made = backend.load()
        if hasattr(made, "probe"):
            reason = made(backend.spec.options()).probe()
            return (not reason, str(reason or ""))
    except InhouseError as error:
        return False, error.message
    except TypeError:
        return True, ""  # has options without defaults: only a recipe can say
    return True, ""
