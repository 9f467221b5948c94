"""The evaluator: gate by gate, a report, and the end of the run where one fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import asdict, frozen

from inhouse.artifacts import write_text
from inhouse.errors import StepError
from inhouse.protocols import Step
from inhouse.values import Artifact, Json, Message
from inhouse_evaluate.models import candidates
from inhouse_evaluate.tasks import load_dialogues

from . import GATES, GateChecked, GatesOptions
from .fit import fit
from .parity import parity
from .row import Row
from .survival import survival
from .task import task

REPORT = "gates.json"


@frozen
class Given:
    """What the gates measure: the models by role (base, tuned, quantized), held-out dialogues, what tasks showed, and
    the knowledge base that lies beside the model."""

    models: dict[str, Artifact]
    dialogues: list[list[Message]]
    tasks: Json
    knowledge: Artifact | None


Gate = Callable[[Step, GatesOptions, Given], Row]
_MEASURES: dict[str, Gate] = {
    "parity": lambda step, _, given: parity(step, given.models, given.dialogues),
    "survival": lambda step, options, given: survival(step, options, given.models, given.dialogues),
    "fit": lambda step, _, given: fit(step, given.models["quantized"], given.knowledge, given.dialogues),
    "task": lambda _, options, given: task(options, given.tasks),
}


class GatesEvaluator:
    """Evaluator ``gates``; see the README for the layout of ``gates.json``."""

    def __init__(self, options: GatesOptions) -> None:
        self.options = options

    def evaluate(
        self,
        step: Step,
        models: Sequence[Artifact],
        chat: Artifact | None,
        report: Artifact | None,
        knowledge: Artifact | None = None,
    ) -> None:
        """Measures every gate and writes ``gates.json``; notes ``gates`` for the lineage.

        Raises ``StepError`` when a gate fails that is not accepted. What was measured is kept in the step's
        checkpoints, so the same run says the same at once, and with the gate accepted goes on from there.
        """
        roles = {each.role: each.artifact for each in candidates(models)}
        given = Given(roles, _heldout(chat), _tasks(report), knowledge)
        rows = [self._row(step, gate, given) for gate in step.track(GATES, unit="gate")]
        failed = [row for row in rows if row.state == "failed" and row.gate not in self.options.accept]
        text = json.dumps({"gates": [asdict(row) for row in rows]}, ensure_ascii=False, indent=1) + "\n"
        write_text(step.output / REPORT, text)
        if failed:
            kept = step.checkpoints / REPORT
            write_text(kept, text)
            raise _failure(failed, kept)
        step.note(gates={row.gate: self._noted(row) for row in rows})

    def _row(self, step: Step, gate: str, given: Given) -> Row:
        kept = step.checkpoints / f"{gate}.json"
        try:
            row = Row(**json.loads(kept.read_text(encoding="utf-8")))
        except FileNotFoundError:
            judge = _MEASURES[gate] if "quantized" in given.models else _unjudged(gate)
            row = judge(step, self.options, given)
            write_text(kept, json.dumps(asdict(row), ensure_ascii=False))
        accepted = row.state == "failed" and gate in self.options.accept
        step.publish(GateChecked(step.name, gate, row.state, row.measured, accepted))
        state = f"{row.state}, accepted" if accepted else row.state
        step.notice(f"gate {gate}: {state}: {row.measured}", level="warning" if row.state == "failed" else "info")
        return row

    def _noted(self, row: Row) -> dict[str, Json]:
        accepted = row.state == "failed"  # else the run would have ended
        return {"passed": row.state != "failed", "state": row.state, "measured": row.measured, "accepted": accepted}


def _unjudged(gate: str) -> Gate:
    return lambda *_: Row(gate, "skipped", "the recipe makes no quantised model")


def _failure(failed: Sequence[Row], report: Path) -> StepError:
    ways = [row.change for row in failed] + [f"--accept {row.gate}" for row in failed]
    told = "; ".join(f"gate {row.gate} failed: {row.measured}" for row in failed)
    return StepError(told, where=str(report), hint=", or ".join(ways))


def _heldout(chat: Artifact | None) -> list[list[Message]]:
    path = chat.path / "heldout.jsonl" if chat else None
    return load_dialogues(path, 10_000) if path and path.exists() else []


def _tasks(report: Artifact | None) -> Json:
    if report is None:
        return {}
    found: Json = json.loads((report.path / "report.json").read_text(encoding="utf-8"))
    return found.get("tasks", {})
