"""From a raw model to a deployed specialist: the run, its report, its bundle, another quantizer, and kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import DESK, INHOUSE, TASKS, Job

pytestmark = [pytest.mark.real, pytest.mark.slow]
BEFORE_TRAINING = ("base", "data", "pretrain")
MODELS = ("base", "tuned", "quantized")


def digests(home: Path) -> dict[str, Any]:
    """Digests of models, adapters and data by step; reports and bundles hold measured seconds."""
    found = {}
    for path in (home / "artifacts").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["stage"] not in ("evaluator", "packager"):
            found[manifest["step"], manifest["backend"]] = [each["digest"] for each in manifest["products"]]
    return found


def test_report(job: Job, home: Path) -> None:
    report = job.report(home)
    assert [step["name"] for step in report["steps"]] == [
        "base", "data", "pretrain", "finetune", "quantize", "knowledge", "evaluate", "gates", "bundle",
    ]  # fmt: skip
    assert all({"name", "backend", "seconds", "cached"} <= step.keys() for step in report["steps"])
    assert report["total"] == TASKS
    for name in MODELS:
        measured = report["tasks"][name]
        assert 0 <= measured["low"] <= measured["solved"] / measured["total"] <= measured["high"] <= 1
        assert measured["loss"] > 0
        assert measured["bytes"] > 50_000_000
        assert measured["memory"] > measured["bytes"] / 2
        assert measured["tokens_per_second"] > 0
    assert report["tasks"]["tuned"]["loss"] < report["tasks"]["base"]["loss"]
    assert report["tasks"]["quantized"]["bytes"] < report["tasks"]["tuned"]["bytes"]
    assert report["tasks"]["quantized"]["bits_per_weight"] < 5.5
    assert 0 < report["peak_memory_bytes"] < 4 << 30


def test_bundle_answers_from_anywhere(job: Job, home: Path, tmp_path: Path) -> None:
    made = Path(job.report(home)["bundle"])
    page = (made / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "")
    moved = tmp_path / "elsewhere"
    shutil.copytree(made, moved)
    question = "Where is my order 65731?"
    answer = json.loads(job.call(["ask", question, "--bundle", str(moved), "--json"], tmp_path / "no-home"))
    assert answer["outcome"] in ("answered", "handed_over", "gave_up")
    assert answer["completion_tokens"] > 0


def test_gates_of_the_real_model(job: Job, home: Path) -> None:
    (path,) = home.glob("artifacts/*/report-gates/gates.json")
    states = {row["gate"]: row["state"] for row in json.loads(path.read_text())["gates"]}
    assert states.keys() == {"parity", "survival", "fit", "task"}
    assert states["parity"] == states["fit"] == "passed"


def test_second_run_does_nothing(job: Job, home: Path) -> None:
    job.call(job.arguments(), home)
    assert all(step["cached"] for step in job.report(home)["steps"])


def test_other_quantizer_by_one_word(job: Job, home: Path) -> None:
    accepted = '["survival", "fit", "task"]'  # with torch as PyPI has it, its process needs more than the target has
    job.call(job.arguments(quantize__use="bitsandbytes", gates__gates__accept=accepted), home)
    steps = {step["name"]: step for step in job.report(home)["steps"]}
    assert all(steps[name]["cached"] for name in ("base", "data", "pretrain", "finetune", "knowledge"))
    assert not steps["quantize"]["cached"]
    assert steps["quantize"]["backend"] == "bitsandbytes"
    assert job.report(home)["tasks"]["quantized"]["runtime"] == "transformers"


def killed(job: Job, home: Path, arguments: Sequence[str], step: str, seen: Callable[[dict[str, Any]], bool]) -> None:
    """Runs ``arguments`` and kills the whole process group when the journal shows an event that is ``seen``."""
    process = subprocess.Popen(
        [*INHOUSE, *arguments],
        env={**os.environ, "INHOUSE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if any(each["event"].get("step") == step and seen(each["event"]) for each in journal(home)):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail(f"{step} was never in its middle")


def journal(home: Path) -> list[dict[str, Any]]:
    """Events of the last run so far; a half-written last line is left out."""
    latest = home / "runs" / "latest"
    path = home / "runs" / latest.read_text().strip() / "events.jsonl" if latest.exists() else latest
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def started(home: Path) -> dict[str, dict[str, Any]]:
    """The steps that the last run really started, by name."""
    events = [each["event"] for each in journal(home)]
    return {event["step"]: event for event in events if event["type"] == "StepStarted"}


def test_killed_in_training_and_in_quantising(job: Job, home: Path, copied: Callable[[Sequence[str]], Path]) -> None:
    other = copied(BEFORE_TRAINING)
    arguments = [*job.arguments(), "--until", "quantize"]
    killed(job, other, arguments, "finetune", lambda event: event["type"] == "StepProgressed" and event["done"] >= 3)
    killed(job, other, arguments, "quantize", lambda event: event["type"] in ("StepProgressed",))
    assert started(other)["finetune"]["resumed"]
    job.call(arguments, other)
    assert list(started(other)) == ["quantize"]
    mine, theirs = digests(other), digests(home)
    assert mine == {key: theirs[key] for key in mine}
    assert ("finetune", "lora") in mine


def test_the_agent_and_the_data_speak_the_same(job: Job) -> None:
    """Every tool that the agent has stands in the system text that training saw."""
    text = (DESK / "system.txt").read_text(encoding="utf-8")
    for tool in ("search_knowledge", "calculator", "orders", "hand_over"):
        assert f"{tool} {{" in text
