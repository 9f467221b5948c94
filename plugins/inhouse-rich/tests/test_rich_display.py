"""What a run looks like, from the events of one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import inhouse_rich
from inhouse.bus import Bus
from inhouse.events import (
    ArtifactCommitted,
    Event,
    ListenerFailed,
    MetricMeasured,
    Noticed,
    PluginFailed,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFailed,
    StepFinished,
    StepProgressed,
    StepStarted,
)
from inhouse_rich.display import Display
from inhouse_rich.live import LiveDisplay
from inhouse_rich.plain import PlainLines
from inhouse_rich.words import amount, duration, rate

STARTED = RunStarted("desk", ("base", "finetune"))
REPORT = {
    "model": {"step": "quantize"},
    "tasks": {
        "base": {"step": "base", "solved": 0, "total": 80, "low": 0.0, "high": 0.05, "loss": None, "type": None},
        "quantized": {
            "step": "quantize",
            "solved": 60,
            "total": 80,
            "low": 0.65,
            "high": 0.83,
            "loss": 0.3,
            "type": "q4_k_m",
            "bits_per_weight": 6.25,
            "bytes": 105e6,
            "memory": 236e6,
            "tokens_per_second": 121.4,
        },
        "others": {"[red]q4_0\x1b[2J": {"solved": 1, "total": 80}, "odd": 7},
    },
}


def run(display: Display, happened: list[Event], *, quiet: bool = False) -> str:
    bus = Bus(strict=True)
    display.attach(bus, quiet=quiet)
    for event in happened:
        bus.publish(event)
    stream = display.console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


@pytest.fixture
def plain() -> PlainLines:
    return PlainLines(Console(file=io.StringIO(), width=120))


@pytest.fixture
def live() -> Iterator[LiveDisplay]:
    made = LiveDisplay(Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None))
    yield made
    made.step_ended()


def test_plain_lines(plain: PlainLines) -> None:
    text = run(
        plain,
        [
            PluginFailed("acme 0.1", "ImportError: x"),
            STARTED,
            StepFinished("base", "source", "smollm2", 0.01, True),
            StepStarted("finetune", "trainer", "lora", 2, 2, True),
            Noticed("finetune", "computing in fp32"),
            Noticed("finetune", "row 3 is too long", "warning"),
            ListenerFailed("acme.tracker", "StepFinished", "OSError: gone"),
            StepFinished("finetune", "trainer", "lora", 362.0, False, 2_300_000_000),
        ],
    )
    assert text.splitlines() == [
        "warning: plugin acme 0.1 is left out: ImportError: x",
        "done [1/2] base (smollm2)  found in the store",
        "[2/2] finetune (lora) started, going on from a checkpoint",
        "  finetune: computing in fp32",
        "warning: finetune: row 3 is too long",
        "warning: listener acme.tracker at StepFinished: OSError: gone",
        "done [2/2] finetune (lora)  6 min 02 s  2.3 GB of memory",
    ]


def test_plain_progress_is_seldom() -> None:
    now = [0.0]
    display = PlainLines(Console(file=io.StringIO(), width=120), clock=lambda: now[0])
    bus = Bus(strict=True)
    display.attach(bus)
    bus.publish(StepStarted("finetune", "trainer", "lora", 1, 1))
    for step in range(201):
        now[0] = step * 1.0
        bus.publish(MetricMeasured("finetune", "loss", 0.5, step))
        bus.publish(StepProgressed("finetune", step, 1000, "step", "epoch 1"))
    lines = display.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "finetune (lora) started",
        "  finetune: 60 of 1,000 steps, 6%, 1.0/s, 15 min 40 s left, epoch 1, loss 0.5",
        "  finetune: 120 of 1,000 steps, 12%, 1.0/s, 14 min 40 s left, epoch 1, loss 0.5",
        "  finetune: 180 of 1,000 steps, 18%, 1.0/s, 13 min 40 s left, epoch 1, loss 0.5",
    ]


def test_failures_are_said_once(plain: PlainLines) -> None:
    failed = StepFailed("finetune", "trainer", "lora", "a.jsonl:3: no JSON\n  try: x")
    text = run(plain, [STARTED, failed, RunFailed("desk", "a.jsonl:3: no JSON\n  try: x")])
    assert text == "failed [2/2] finetune (lora)  a.jsonl:3: no JSON\n"


def test_a_run_that_fails_between_steps(plain: PlainLines) -> None:
    assert run(plain, [STARTED, RunFailed("desk", "no space")]) == "the run failed: no space\n"


@pytest.mark.parametrize("where", ["bundle", "store"])
def test_tables(plain: PlainLines, tmp_path: Path, where: str) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "report.html").write_text("")
    (tmp_path / "bundle.json").write_text(json.dumps({"example": "Where's my order?\x1b[2J"}))
    text = run(
        plain,
        [
            STARTED,
            StepFinished("base", "source", "smollm2", 0.01, True),
            ArtifactCommitted("evaluate", "report", str(tmp_path), "0", 1),
            RunFinished("desk", 400.0, 10**9, str(tmp_path) if where == "bundle" else None),
        ],
    )
    assert "60/80 75%" in text
    assert "q4_k_m 6.25 bit" in text
    assert "65%–83%" in text
    assert "[red]q4_0 [2J" in text
    assert "\x1b" not in text
    assert ("inhouse ask --bundle" in text) == (where == "bundle")


@pytest.mark.parametrize("content", ["", "[]", '{"tasks": 3}', '{"tasks": {"base": {"total": "x"}, "others": []}}'])
def test_odd_reports_are_left_out(plain: PlainLines, tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    text = run(plain, [STARTED, RunFinished("desk", 1.0, 1, str(tmp_path))])
    assert "tok/s" not in text
    assert "peak memory" in text


def test_quiet_leaves_warnings_and_failures(plain: PlainLines) -> None:
    text = run(
        plain,
        [
            STARTED,
            StepStarted("finetune", "trainer", "lora", 2, 2),
            Noticed("finetune", "info"),
            Noticed("finetune", "hot", "warning"),
            StepFinished("finetune", "trainer", "lora", 1.0, False),
            RunFinished("desk", 1.0, 1),
            StepFailed("finetune", "trainer", "lora", "why"),
        ],
        quiet=True,
    )
    assert text == "warning: finetune: hot\nfailed [2/2] finetune (lora)  why\n"


def test_live_bar(live: LiveDisplay) -> None:
    bus = Bus(strict=True)
    live.attach(bus)
    bus.publish(STARTED)
    bus.publish(StepStarted("finetune", "trainer", "lora", 2, 2))
    bus.publish(StepProgressed("finetune", 30, 120, "step", "[red]epoch 1"))
    bus.publish(MetricMeasured("finetune", "loss", 0.51234, 30))
    bus.publish(Noticed("finetune", "hot \x1b[2J[/]", "warning"))
    assert live.progress is not None
    live.progress.refresh()
    bus.publish(StepFinished("finetune", "trainer", "lora", 61.0, False))
    assert live.progress is None
    text = live.console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("[2/2] finetune (lora)", "25%", "30 of 120 steps", "[red]epoch 1, loss 0.5123", "✓", "1 min 01 s"):
        assert part in text
    assert "warning: finetune: hot  [2J[/]" in text


@pytest.mark.parametrize(
    "end", [StepFailed("finetune", "trainer", "lora", "why"), RunFailed("desk", "why"), RunFinished("desk", 1.0, 1)]
)
def test_live_gives_the_terminal_back(live: LiveDisplay, end: Event) -> None:
    text = run(live, [STARTED, StepStarted("finetune", "trainer", "lora", 2, 2), end])
    assert live.progress is None
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # the cursor is shown again


def test_progress_without_a_step_is_ignored(live: LiveDisplay) -> None:
    assert run(live, [StepProgressed("x", 1, 2, "step"), MetricMeasured("x", "loss", 1.0, 1)]) == ""


def test_the_hook(capsys: pytest.CaptureFixture[str]) -> None:
    bus = Bus(strict=True)
    inhouse_rich.inhouse_subscribers(bus=bus, terminal=False)
    bus.publish(STARTED)
    bus.publish(StepFinished("base", "source", "smollm2", 0.01, True))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "done [1/2] base (smollm2)  found in the store\n"


def test_words() -> None:
    assert [duration(x) for x in (8.44, 125, 3725)] == ["8.4 s", "2 min 05 s", "1 h 02 min"]
    assert [amount(1, 2, "step"), amount(1, 0, "tensors"), amount(5e6, 1e8, "B")] == [
        "1 of 2 steps",
        "1 tensors",
        "5.0 MB of 100 MB",
    ]
    assert [rate(2.13, "step"), rate(0.1, "step"), rate(5e6, "B")] == ["2.1/s", "6.0/min", "5.0 MB/s"]
