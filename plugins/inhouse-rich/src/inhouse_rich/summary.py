"""The tables at the end of a run."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from inhouse.events import ArtifactCommitted, RunFinished, StepFinished
from inhouse_rich.words import clean, duration, size


class Summary:
    """Gathers what a run did."""

    def __init__(self) -> None:
        self.steps: list[StepFinished] = []
        self.report: Path | None = None

    def committed(self, event: ArtifactCommitted) -> None:
        """Remembers where the evaluator's report lies."""
        if event.kind == "report":
            self.report = Path(event.path) / "report.json"

    def tables(self, event: RunFinished) -> Iterator[Table]:
        """Steps; then models, when a report says something of them."""
        yield self._steps(event)
        bundle = Path(event.bundle) / "report.json" if event.bundle else None
        report = next((found for path in (bundle, self.report) if path and (found := _read(path))), {})
        rows = list(_models(report))
        if rows:
            yield _model_table(rows)

    def closing(self, event: RunFinished) -> Iterator[tuple[str, str]]:
        """(label, text): where things lie and what to type."""
        yield "peak memory", size(event.peak_memory_bytes)
        if event.bundle:
            folder = _near(event.bundle)
            example = _read(Path(event.bundle) / "bundle.json").get("example") or "your question"
            yield "bundle", folder
            if (Path(event.bundle) / "report.html").is_file():
                yield "page", str(Path(folder) / "report.html")
            yield "try", f"inhouse ask --bundle {shlex.quote(folder)} {shlex.quote(clean(str(example)))}"

    def _steps(self, event: RunFinished) -> Table:
        table = _table("step", "backend", took="right", memory="right", this_run="left")
        for each in self.steps:
            memory = size(each.peak_memory_bytes) if each.peak_memory_bytes else "–"
            took = "–" if each.cached else duration(each.seconds)
            cells = (clean(each.step), clean(each.backend), took, memory, "cached" if each.cached else "ran")
            table.add_row(*map(Text, cells))
        table.add_section()
        table.add_row("all", "", duration(event.seconds), "", "", style="bold")
        return table


def _model_table(rows: list[tuple[bool, list[str]]]) -> Table:
    table = _table(
        "model", "type", solved="right", interval="right", loss="right", file="right", memory="right", tok_s="right"
    )
    for deployed, cells in rows:
        table.add_row(*map(Text, cells), style="bold green" if deployed else None)
    return table


def _models(report: Mapping[str, Any]) -> Iterator[tuple[bool, list[str]]]:
    """(is deployed, cells). Evaluators differ: an entry that does not say what it solved is left out."""
    tasks = report.get("tasks")
    if not isinstance(tasks, Mapping):
        return
    others = tasks.get("others")
    named = [(name, tasks.get(name)) for name in ("base", "tuned", "quantized")]
    model = report.get("model")
    deployed = model.get("step") if isinstance(model, Mapping) else None
    for name, entry in [*named, *(others.items() if isinstance(others, Mapping) else ())]:
        if isinstance(entry, Mapping) and _number(entry, "total"):
            yield entry.get("step") == deployed, _cells(str(name), entry)


def _cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    solved, total, bits = (_number(entry, key) or 0 for key in ("solved", "total", "bits_per_weight"))
    low, high = _number(entry, "low"), _number(entry, "high")
    shown = {key: _number(entry, key) for key in ("loss", "bytes", "memory", "tokens_per_second")}
    kind = clean(str(entry.get("type") or "–")) + (f" {bits:.2f} bit" if bits else "")
    return [
        clean(name),
        kind,
        f"{solved:.0f}/{total:.0f} {solved / total:.0%}",
        "–" if low is None or high is None else f"{low:.0%}–{high:.0%}",
        "–" if shown["loss"] is None else f"{shown['loss']:.3f}",
        *("–" if shown[key] is None else size(shown[key] or 0) for key in ("bytes", "memory")),
        "–" if shown["tokens_per_second"] is None else f"{shown['tokens_per_second']:.1f}",
    ]


def _table(*names: str, **numbers: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name, justify in numbers.items():
        table.add_column(name.replace("tok_s", "tok/s").replace("_", " "), justify=justify, no_wrap=True)
    return table


def _number(entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none (a replayed run's files may be gone)."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _near(path: str) -> str:
    """A path as the user would type it: relative when it lies below the working directory."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
