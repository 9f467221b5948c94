"""The evaluator: each model in turn, the same tasks, one report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, frozen

from inhouse.artifacts import write_text
from inhouse.errors import RecipeError
from inhouse.protocols import Agent, Engine, Step
from inhouse.values import Answer, Artifact, Json, Message
from inhouse_answer.dialogues import answer_all

from . import TasksOptions
from .intervals import paired, wilson
from .load import settings_of
from .loss import heldout_loss
from .models import Candidate, candidates, type_and_bits, weight_bytes
from .scoring import problems
from .speed import measure_speed
from .tasks import Task, load_dialogues, load_examples, load_tasks


@frozen
class _Material:
    """What every model is measured on."""

    tasks: list[Task]
    examples: list[Message]
    heldout: list[list[Message]]


@define
class _Counter:
    """Progress over all models."""

    step: Step
    total: int
    done: int = 0

    def advance(self, count: int, note: str) -> None:
        self.done += count
        self.step.progress(self.done, self.total, unit="task", note=note)


class TasksEvaluator:
    """Evaluator ``tasks``; see the README for the layout of ``report.json``."""

    def __init__(self, options: TasksOptions) -> None:
        self.options = options

    def evaluate(
        self, step: Step, models: Sequence[Artifact], chat: Artifact | None, knowledge: Artifact | None
    ) -> None:
        """Measures base, tuned and quantised models, writes ``report.json``, notes the gate.

        Results of a model are kept as soon as it is done: a killed evaluation goes on with the next.
        """
        material = self._load(chat)
        compared = [each for each in candidates(models) if each.role in self.options.roles]
        counter = _Counter(step, len(compared) * len(material.tasks))
        agent = step.services.agent(knowledge)
        measured: list[tuple[Candidate, dict[str, Json]]] = []
        for candidate in compared:
            kept = _checkpoint(step.checkpoints, candidate)
            result = _read(kept)
            if result is None:
                result = self._measure(step, candidate, material, agent, counter)
                write_text(kept, json.dumps(result, ensure_ascii=False))
            else:
                counter.advance(len(material.tasks), f"{candidate.role}: kept from an earlier run")
            step.notice(_summary(candidate, result["result"]))
            measured.append((candidate, result))
        report = self._report(measured, len(material.tasks))
        write_text(step.output / "report.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        self._gate(step, report["tasks"].get("quantized"))

    def _load(self, chat: Artifact | None) -> _Material:
        options = self.options
        examples = load_examples(options.few_shot) if options.few_shot else []
        heldout = load_dialogues(chat.path / "heldout.jsonl", options.heldout_limit) if chat else []
        return _Material(load_tasks(options.tasks), examples, heldout)

    def _measure(
        self, step: Step, candidate: Candidate, material: _Material, agent: Agent, counter: _Counter
    ) -> dict[str, Json]:
        begun = time.perf_counter()
        artifact = candidate.artifact
        examples = material.examples if candidate.untuned or self.options.few_shot_tuned else []
        context = step.target.context + _room(examples)
        with step.services.engine(artifact, context=context) as engine:
            answers = self._answer(engine, agent, material.tasks, examples, counter, candidate.role)
            answered = time.perf_counter() - begun
            has_logprobs = "logprobs" in engine.features
            loss = heldout_loss(engine, material.heldout) if has_logprobs else None
            speed = measure_speed(engine)
            memory, settings = engine.memory(), settings_of(engine)
        if settings:
            step.notice(f"{candidate.role}: {settings}", level="warning")
        verdicts = [_verdict(task, answer) for task, answer in zip(material.tasks, answers, strict=True)]
        kind, bits = type_and_bits(artifact)
        result = {
            "step": artifact.step,
            "kind": artifact.kind,
            "runtime": step.services.runtime_name(artifact.kind),
            **({"settings": settings} if settings else {}),
            "type": kind,
            "bits_per_weight": bits,
            **self._share(verdicts),
            "kinds": _by_kind(verdicts),
            "examples": len(examples),
            "grammar": "grammar" in engine.features,
            "context": context,
            "loss": loss.nats if loss else None,
            "loss_tokens": loss.tokens if loss else 0,
            "loss_dialogues": loss.dialogues if loss else 0,
            "bytes": weight_bytes(artifact.path),
            "memory": memory,
            "tokens_per_second": speed.single,
            "batched_tokens_per_second": speed.batched,
            "batch": speed.batch,
            "task_seconds": answered,
            "seconds": time.perf_counter() - begun,
        }
        return {"result": result, "verdicts": verdicts}

    def _answer(
        self,
        engine: Engine,
        agent: Agent,
        tasks: Sequence[Task],
        examples: Sequence[Message],
        counter: _Counter,
        note: str,
    ) -> list[Answer]:
        questions = [task.question for task in tasks]
        answers: dict[int, Answer] = {}
        counter.advance(0, note)
        for index, answer in answer_all(agent, engine, questions, examples=examples, batch=self.options.batch):
            answers[index] = answer
            counter.advance(1, note)
        return [answers[index] for index in range(len(tasks))]

    def _share(self, verdicts: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
        solved = sum(verdict["solved"] for verdict in verdicts)
        low, high = wilson(solved, len(verdicts), self.options.confidence)
        return {"solved": solved, "total": len(verdicts), "low": low, "high": high}

    def _report(self, measured: Sequence[tuple[Candidate, dict[str, Json]]], total: int) -> dict[str, Json]:
        tasks: dict[str, Json] = {"others": {}}
        verdicts: dict[str, Json] = {"others": {}}
        for candidate, result in measured:
            other = candidate.role == "other"
            name = candidate.artifact.step if other else candidate.role
            (tasks["others"] if other else tasks)[name] = result["result"]
            (verdicts["others"] if other else verdicts)[name] = result["verdicts"]
        comparisons = {}
        for first, second in (("base", "tuned"), ("tuned", "quantized")):
            if first in verdicts and second in verdicts:
                solved = [[verdict["solved"] for verdict in verdicts[role]] for role in (first, second)]
                comparisons[f"{first}_{second}"] = paired(*solved)
        return {
            "tasks": tasks,
            "total": total,
            "confidence": self.options.confidence,
            "interval": "wilson",
            "paired": comparisons,
            "minimum": self.options.minimum,
            "verdicts": verdicts,
        }

    def _gate(self, step: Step, quantized: Mapping[str, Json] | None) -> None:
        """Notes whether the quantised model solves enough; the report stays either way."""
        minimum = self.options.minimum
        if quantized is not None:
            step.note(solved=quantized["solved"], total=quantized["total"])
        if minimum is None:
            return
        if quantized is None:
            raise RecipeError(
                "minimum asks for a quantised model, and the recipe makes none",
                where="evaluate.tasks.minimum",
                hint="add a [quantize] table, or take minimum out",
            )
        share = quantized["solved"] / quantized["total"]
        step.note(gate="passed" if share >= minimum else "failed")
        if share < minimum:
            step.notice(
                f"the quantised model solves {share:.0%} of the tasks, the minimum is {minimum:.0%}",
                level="warning",
            )


def _room(examples: Sequence[Message]) -> int:
    """Tokens that the examples take beside the target's context; a token has about four characters."""
    return sum(len(turn.content) // 2 + 16 for turn in examples)


def _verdict(task: Task, answer: Answer) -> dict[str, Json]:
    why = problems(task, answer)
    return {
        "id": task.id,
        "kind": task.kind,
        "question": task.question,
        "solved": not why,
        "why_not": why,
        "calls": [
            {"tool": call.tool, "arguments": dict(call.arguments), "observation": call.observation}
            for call in answer.calls
        ],
        "answer": answer.text,
        "outcome": answer.outcome,
        "cites": [citation.document for citation in answer.citations],
        "tokens": answer.completion_tokens,
    }


def _by_kind(verdicts: Sequence[Mapping[str, Json]]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for verdict in verdicts:
        count = kinds.setdefault(verdict["kind"], {"solved": 0, "total": 0})
        count["solved"] += verdict["solved"]
        count["total"] += 1
    return kinds


def _summary(candidate: Candidate, result: Mapping[str, Json]) -> str:
    name = candidate.role if candidate.role != "other" else candidate.artifact.step
    text = f"{name}: {result['solved']} of {result['total']} tasks ({result['low']:.0%} to {result['high']:.0%})"
    if result["loss"] is not None:
        text += f", held-out loss {result['loss']:.3f}"
    return text


def _checkpoint(folder: Path, candidate: Candidate) -> Path:
    return folder / f"{candidate.role}-{candidate.artifact.digest[:32]}.json"


def _read(path: Path) -> dict[str, Json] | None:
    try:
        kept: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return kept
