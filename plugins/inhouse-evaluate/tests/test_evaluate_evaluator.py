"""The whole evaluation over scripted engines, real agent and real tools."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inhouse.errors import EngineError, RecipeError
from inhouse.values import Artifact
from inhouse_evaluate import TasksOptions, inhouse_evaluators
from inhouse_evaluate.evaluator import TasksEvaluator


def model(folder: Path, step: str, kind: str = "model/hf", stage: str = "trainer", **meta: Any) -> Artifact:
    path = folder / step
    path.mkdir(exist_ok=True)
    if kind == "model/gguf":
        (path / "model.gguf").write_bytes(b"x" * 10)
    else:
        (path / "model.safetensors").write_bytes(b"x" * 30)
        (path / "config.json").write_text('{"dtype": "bfloat16"}')
    return Artifact(kind, path, (step * 64)[:64], step, stage, meta)


@pytest.fixture
def models(desk: SimpleNamespace) -> list[Artifact]:
    return [
        model(desk.folder, "base", stage="source"),
        model(desk.folder, "pretrain"),
        model(desk.folder, "finetune"),
        model(desk.folder, "quantize", "model/gguf", "quantizer", type="Q4_K_M", bits_per_weight=5.9),
        model(desk.folder, "smaller", "model/gguf", "quantizer", type="Q4_0", bits_per_weight=4.5),
    ]


@pytest.fixture
def step(desk: SimpleNamespace, kit: SimpleNamespace) -> Any:
    desk.engines = {
        "base": kit.Engine(kit.unable),
        "finetune": kit.Engine(kit.able),
        "quantize": kit.Engine(kit.able, frozenset({"logprobs", "grammar"})),
        "smaller": kit.Engine(kit.unable, frozenset()),
    }
    return kit.Step(desk.folder, desk.agent, {name: (lambda e=e: e) for name, e in desk.engines.items()})


def options(desk: SimpleNamespace, **more: Any) -> TasksOptions:
    return TasksOptions(desk.folder / "tasks.jsonl", desk.folder / "few_shot.jsonl", **more)


def report(step: Any) -> Any:
    return json.loads((step.output / "report.json").read_text())


def test_the_report(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    TasksEvaluator(options(desk, batch=3)).evaluate(step, models, desk.chat, None)
    made = report(step)
    tasks = made["tasks"]
    assert step.opened == ["base", "finetune", "quantize", "smaller"]
    assert (made["total"], made["confidence"]) == (4, 0.95)
    assert [tasks[role]["solved"] for role in ("base", "tuned", "quantized")] == [0, 4, 4]
    assert tasks["others"]["smaller"]["solved"] == 0
    tuned, quantized = tasks["tuned"], tasks["quantized"]
    assert (tuned["step"], tuned["type"], tuned["bits_per_weight"], tuned["bytes"]) == ("finetune", "BF16", 16.0, 30)
    assert (quantized["type"], quantized["bits_per_weight"], quantized["bytes"]) == ("Q4_K_M", 5.9, 10)
    assert quantized["runtime"] == "runtime of model/gguf"
    assert quantized["memory"] == 123_456_789
    assert quantized["kinds"]["policy"] == {"solved": 1, "total": 1}
    assert 0.5 < quantized["low"] < quantized["high"] == 1.0
    assert quantized["tokens_per_second"] > 0
    assert quantized["batched_tokens_per_second"] > 0
    assert tasks["base"]["tokens_per_second"] is None
    assert tasks["others"]["smaller"]["loss"] is None
    assert tuned["loss"] > 0
    assert tuned["loss_dialogues"] == 3
    assert made["paired"]["base_tuned"] == {"both": 0, "only_first": 0, "only_second": 4, "neither": 0, "p": 0.125}
    assert made["paired"]["tuned_quantized"]["p"] == 1.0
    assert step.progressed[-1] == (16, 16)
    assert step.facts == {"solved": 4, "total": 4}
    assert all(engine.closed for engine in desk.engines.values())


def test_verdicts_say_why_not(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    TasksEvaluator(options(desk)).evaluate(step, models, desk.chat, None)
    first = report(step)["verdicts"]["base"][0]
    assert first["solved"] is False
    assert first["why_not"][0] == "called no tool instead of orders"
    assert "could not be read" in first["why_not"][1]
    second = report(step)["verdicts"]["tuned"][1]
    assert second["solved"] is True
    assert [call["observation"] for call in second["calls"]] == [
        "item: lamp; price: 89.5; status: shipped on 3 May",
        "179",
    ]
    assert report(step)["verdicts"]["tuned"][2]["cites"] == ["returns-window"]


def test_only_untuned_models_see_the_examples(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    TasksEvaluator(options(desk)).evaluate(step, models, desk.chat, None)
    seen = {name: engine.requests[0].messages[1].content for name, engine in desk.engines.items()}
    assert seen["base"] == "Hi"
    assert seen["finetune"] == seen["quantize"] == "Where is 48213?"
    assert report(step)["tasks"]["base"]["examples"] == 2
    assert step.contexts[0] > 512
    assert step.contexts[1:] == [512, 512, 512]
    assert desk.engines["quantize"].requests[0].grammar
    assert not desk.engines["finetune"].requests[0].grammar


def test_dialogues_are_decoded_together(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    TasksEvaluator(options(desk, batch=2)).evaluate(step, models, desk.chat, None)
    assert desk.engines["finetune"].batches[:4] == [2, 2, 2, 2]


def test_a_killed_evaluation_goes_on_with_the_next_model(
    desk: SimpleNamespace, step: Any, models: list[Artifact], kit: SimpleNamespace
) -> None:
    def killed() -> Any:
        raise EngineError("killed")

    opens = {name: (lambda e=e: e) for name, e in desk.engines.items()}
    first = kit.Step(desk.folder, desk.agent, opens | {"quantize": killed})
    with pytest.raises(EngineError):
        TasksEvaluator(options(desk)).evaluate(first, models, desk.chat, None)
    assert not (first.output / "report.json").exists()
    TasksEvaluator(options(desk)).evaluate(step, models, desk.chat, None)
    assert step.opened == ["quantize", "smaller"]
    assert report(step)["tasks"]["tuned"]["solved"] == 4
    assert step.progressed[-1] == (16, 16)


def test_the_gate_is_noted_and_the_report_stays(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    desk.engines["quantize"].brain = desk.engines["base"].brain
    TasksEvaluator(options(desk, minimum=0.65)).evaluate(step, models, desk.chat, None)
    assert step.facts["gate"] == "failed"
    assert step.notices[-1] == ("warning", "the quantised model solves 0% of the tasks, the minimum is 65%")
    assert report(step)["minimum"] == 0.65


def test_a_gate_that_holds(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    TasksEvaluator(options(desk, minimum=0.65)).evaluate(step, models, desk.chat, None)
    assert step.facts["gate"] == "passed"
    assert not [message for level, message in step.notices if level == "warning"]


def test_a_run_without_training(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    TasksEvaluator(options(desk)).evaluate(step, [models[0], models[4]], None, None)
    made = report(step)
    assert set(made["tasks"]) == {"base", "quantized", "others"}
    assert made["tasks"]["quantized"]["step"] == "smaller"
    assert made["tasks"]["quantized"]["examples"] == 2
    assert made["tasks"]["base"]["loss"] is None


def test_a_gate_without_a_quantised_model_is_a_wrong_recipe(
    desk: SimpleNamespace, step: Any, models: list[Artifact]
) -> None:
    with pytest.raises(RecipeError, match="minimum"):
        TasksEvaluator(options(desk, minimum=0.5)).evaluate(step, models[:1], desk.chat, None)
    with pytest.raises(RecipeError, match="no model"):
        TasksEvaluator(options(desk)).evaluate(step, [], desk.chat, None)


def test_the_spec_is_declared() -> None:
    (spec,) = inhouse_evaluators()
    assert [each.optional for each in spec.consumes] == [False, True, True]
    assert spec.produces == ("report",)


def test_unusual_settings_of_an_engine_are_told(desk: SimpleNamespace, step: Any, models: list[Artifact]) -> None:
    desk.engines["quantize"].told = "weights are not repacked, since that crashes here"
    TasksEvaluator(options(desk)).evaluate(step, models, desk.chat, None)
    tasks = report(step)["tasks"]
    assert tasks["quantized"]["settings"] == "weights are not repacked, since that crashes here"
    assert "settings" not in tasks["base"]
    assert ("warning", "quantized: weights are not repacked, since that crashes here") in step.notices
