"""``inhouse report``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from attrs import asdict

from inhouse import codec, runs
from inhouse.cli.common import emit, home_option, json_option, open_kernel, table
from inhouse_commands.units import human_bytes


@click.command()
@click.option("--run", "key", help="A run's id; the last run by default.")
@home_option
@json_option
def command(key: str | None, home: str | None, as_json: bool) -> None:
    """Show what the last run made and measured."""
    kernel = open_kernel(home)
    report = _report(runs.load_record(runs.last_run(kernel.home, key)))
    if as_json:
        emit(report)
        return
    table(
        [
            (s["name"], s["backend"], f"{s['made_seconds']:.1f} s", "cached" if s["cached"] else "ran")
            for s in report["steps"]
        ],
        ("step", "backend", "took", "this run"),
    )
    if report.get("tasks"):
        click.echo()
        table(_models(report), ("model", "type", "solved", "interval", "loss", "file", "memory", "tok/s", "runtime"))
    if report["gates"]:
        click.echo()
        table([tuple(each.values()) for each in report["gates"]], ("gate", "state", "measured"))
    click.echo(f"\npeak memory: {human_bytes(report['peak_memory_bytes'])}")
    if report["error"]:
        click.echo(f"failed: {report['error']}")
    if report["bundle"]:
        click.echo(f"bundle: {report['bundle']}")
        click.echo(f"page:   {Path(report['bundle']) / 'report.html'}")


def _report(record: runs.RunRecord) -> dict[str, Any]:
    """The run's report for scripts: steps, tasks, peak memory, bundle, and what the evaluator measured."""
    measured: dict[str, Any] = {}
    path = Path(record.report or "") / "report.json"
    if record.report and path.is_file():
        measured = codec.loads(path.read_bytes(), dict[str, Any], where=str(path))
    return {
        **{key: value for key, value in measured.items() if key != "verdicts"},
        "run": record.id,
        "recipe": record.recipe,
        "seconds": record.seconds,
        "steps": [asdict(each, filter=lambda a, _: a.name not in ("options", "meta")) for each in record.steps],
        "gates": [row for each in record.steps for row in _gates(each.meta.get("gates"))],
        "peak_memory_bytes": record.peak_memory_bytes,
        "bundle": record.bundle,
        "error": record.error,
    }


def _gates(noted: Any) -> Iterator[dict[str, str]]:
    """What an evaluator noted as ``gates``; anything else is none."""
    for name, each in noted.items() if isinstance(noted, Mapping) else ():
        if isinstance(each, Mapping) and isinstance(each.get("passed"), bool):
            state = str(each.get("state", "passed" if each["passed"] else "failed"))
            accepted = ", accepted" if each.get("accepted") and not each["passed"] else ""
            yield {"gate": str(name), "state": f"{state}{accepted}", "measured": str(each.get("measured", ""))}


def _models(report: dict[str, Any]) -> list[tuple[str, ...]]:
    tasks = report["tasks"]
    named = [(name, tasks[name]) for name in ("base", "tuned", "quantized") if tasks.get(name)]
    return [_row(name, each) for name, each in [*named, *tasks.get("others", {}).items()]]


def _row(name: str, each: dict[str, Any]) -> tuple[str, ...]:
    bits = f" ({each['bits_per_weight']:.2f} bit)" if each.get("bits_per_weight") else ""
    return (
        name,
        f"{each.get('type') or ''}{bits}",
        f"{each['solved']}/{each['total']} = {each['solved'] / each['total']:.0%}",
        f"{each['low']:.0%} to {each['high']:.0%}",
        f"{each['loss']:.3f}" if each.get("loss") is not None else "",
        human_bytes(each["bytes"]),
        human_bytes(each["memory"]),
        f"{each['tokens_per_second']:.1f}",
        each["runtime"],
    )
