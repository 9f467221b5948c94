"""``inhouse plan``"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from inhouse.artifacts import Manifest
from inhouse.cli.common import (
    emit,
    home_option,
    json_option,
    load_recipe,
    open_kernel,
    set_option,
    table,
)
from inhouse.plan import Plan, PlannedStep, disk_needed
from inhouse_commands.estimate import Estimate, Trials, smaller
from inhouse_commands.trial import Reading
from inhouse_commands.units import human_bytes

HEADER = ("step", "backend", "plugin", "state", "time", "memory", "makes")


@click.command()
@click.argument("recipe", default="recipe.toml")
@set_option
@click.option("--no-trial", is_flag=True, help="Measure nothing: no time and memory of steps that will run.")
@home_option
@json_option
def command(recipe: str, sets: tuple[str, ...], no_trial: bool, home: str | None, as_json: bool) -> None:
    """Show what RECIPE would run, what is cached, and the disk, time and memory it needs.

    Trainers that are not cached are tried for about 20 seconds each, in a process and a folder of their own;
    nothing is written into the store.
    """
    kernel = open_kernel(home)
    plan = kernel.plan(load_recipe(recipe, sets))
    done = kernel.cached(plan)
    needed = disk_needed(plan, done)
    trials = Trials(plan, kernel.store, done, recipe=recipe, sets=sets, home=home, tell=_progress)
    wanted = [] if no_trial else [each for each in plan.steps if each.stage == "trainer" and each.name not in done]
    estimates = {}
    for step in wanted:
        _progress(step.name)
        estimates[step.name] = trials.estimate(step)
        _progress()
    rows = [_row(step, done.get(step.name), estimates.get(step.name, Estimate())) for step in plan.steps]
    warnings = _warnings(plan, estimates)
    seconds = [each.seconds for each in estimates.values() if each.seconds is not None]
    if as_json:
        total = sum(seconds) if seconds else None
        emit({"recipe": plan.recipe.name, "steps": rows, "disk_bytes": needed, "seconds": total, "warnings": warnings})
    else:
        table([_cells(each, tried=each["name"] in estimates) for each in rows], HEADER)
        _notes(estimates)
        click.echo(f"\ndisk: {human_bytes(needed)} will be written")
        if seconds:
            told = ", ".join(name for name, each in estimates.items() if each.seconds is not None)
            click.echo(f"time: {human_seconds(sum(seconds))} for {told}")
        for line in warnings:
            click.echo(f"warning: {line}")
    failed = next((each.error for each in estimates.values() if each.error), None)
    if failed:
        raise failed


def human_seconds(seconds: float) -> str:
    """``7 min 44 s``: two units at most."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def available_bytes(file: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that a new process can take without swapping; None where the kernel does not say (not Linux)."""
    try:
        line = next(each for each in file.read_text(encoding="ascii").splitlines() if each.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def _row(step: PlannedStep, manifest: Manifest | None, estimate: Estimate) -> dict[str, Any]:
    return {
        "name": step.name,
        "stage": step.stage,
        "backend": step.chosen.backend.spec.name,
        "plugin": f"{step.chosen.backend.distribution} {step.chosen.backend.version}",
        "takes": sorted({kind for group in step.inputs if group for _, kind in group}),
        "makes": list(step.produces),
        "cached": manifest is not None,
        "seconds_last": manifest.seconds if manifest else None,
        "seconds": manifest.seconds if manifest else estimate.seconds,
        "memory_bytes": manifest.peak_memory_bytes if manifest else estimate.memory_bytes,
        "note": estimate.note or None,
        "failed": estimate.error.message if estimate.error else None,
    }


def _cells(row: Mapping[str, Any], *, tried: bool) -> tuple[str, ...]:
    state = "cached" if row["cached"] else "fails" if row["failed"] else "will run"
    unknown = "?" if tried else "-"
    time = unknown if row["seconds"] is None else human_seconds(row["seconds"])
    memory = unknown if row["memory_bytes"] is None else human_bytes(row["memory_bytes"])
    return (row["name"], row["backend"], row["plugin"], state, time, memory, ", ".join(row["makes"]))


def _notes(estimates: Mapping[str, Estimate]) -> None:
    """One line for each thing that is said of steps, with the steps it is said of."""
    lines: dict[str, list[str]] = {}
    for name, each in estimates.items():
        lines.setdefault(each.note, []).append(name)
    if lines:
        click.echo()
    for note, names in lines.items():
        click.echo(f"{', '.join(names)}: {note}")


def _warnings(plan: Plan, estimates: Mapping[str, Estimate]) -> Sequence[str]:
    """One line for each step that needs more memory than there is, and for what is left out."""
    there = available_bytes()
    over = [
        (step, estimates[step.name].memory_bytes or 0)
        for step in plan.steps
        if step.name in estimates and there is not None and (estimates[step.name].memory_bytes or 0) > there
    ]
    left_out = [f"left out: {plan.left_out}"] if plan.left_out else []
    return left_out + [
        f"{step.name} needs {human_bytes(bytes_)} of memory and {human_bytes(there or 0)} are free; "
        f"try {smaller(plan, step)}"
        for step, bytes_ in over
    ]


def _progress(name: str = "", reading: Reading | None = None) -> None:
    """One line on a terminal that is written over; nothing elsewhere."""
    if not sys.stderr.isatty():
        return
    so_far = f", {reading.done:.10g} of {reading.total:.10g} {reading.unit}" if reading and reading.total else ""
    click.echo(f"\r\x1b[Ktrying {name}{so_far}" if name else "\r\x1b[K", err=True, nl=False)
