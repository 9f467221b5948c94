"""What the gates compare, on engines whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inhouse.errors import EngineError
from inhouse.values import Artifact
from inhouse_evaluate.divergence import Marked, divergence, write_reference
from inhouse_gates import GATES, GateChecked, GatesOptions
from inhouse_gates.evaluator import GatesEvaluator
from inhouse_gates.golden import golden
from inhouse_gates.task import task
from inhouse_testing.recording import RecordingStep


class Engine:
    """Expects the same logits everywhere."""

    features = frozenset({"distributions"})

    def __init__(self, logits: Sequence[float]) -> None:
        self.logits = np.array(logits, np.float32)

    def distributions(self, sequences: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
        for ids in sequences:
            yield np.tile(self.logits, (len(ids) - 1, 1))


TEXTS = [Marked([0, 1, 2, 0, 1], [(2, 4)]), Marked([1, 1, 1], [(1, 3)])]


def compared(reference: Any, engine: Any, folder: Path) -> Any:
    write_reference(reference, TEXTS, folder / "reference")
    return divergence(engine, TEXTS, folder / "reference")


def test_divergence_is_kullback_and_leiblers(tmp_path: Path) -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    found = compared(Engine(np.log(p) + 3), Engine(np.log(q) - 2), tmp_path)
    assert found.nats == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-5)
    assert found.tokens == 4
    assert found.same_top == 0.0


def test_a_model_does_not_diverge_from_itself_and_padding_counts_for_nothing(tmp_path: Path) -> None:
    same = compared(Engine([1.0, 0.0, -1.0]), Engine([1.0, 0.0, -1.0]), tmp_path)
    assert same.nats == pytest.approx(0.0, abs=1e-7)
    assert same.same_top == 1.0
    wider = compared(Engine([1.0, 0.0, -1.0]), Engine([1.0, 0.0, -1.0, 5.0]), tmp_path)
    assert wider.nats == pytest.approx(0.0, abs=1e-6)


def test_logits_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no numbers"):
        compared(Engine([1.0, float("nan")]), Engine([1.0, 0.0]), tmp_path)


def test_only_marked_places_count(tmp_path: Path) -> None:
    class Late(Engine):
        def distributions(self, sequences: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
            for ids in sequences:
                rows = np.tile(self.logits, (len(ids) - 1, 1))
                rows[[row for row in range(len(ids) - 1) if row not in (0, 1, 2)]] = 100 * self.logits
                yield rows

    texts = [Marked([0, 1, 2, 0, 1], [(2, 4)])]
    write_reference(Engine([1.0, 0.0, -1.0]), texts, tmp_path / "reference")  # type: ignore[arg-type]
    assert divergence(Late([1.0, 0.0, -1.0]), texts, tmp_path / "reference").nats == pytest.approx(0.0, abs=1e-7)  # type: ignore[arg-type]


def solved(before: int, after: int) -> dict[str, Any]:
    return {"tuned": {"solved": before, "total": 80}, "quantized": {"solved": after, "total": 80}}


def test_tasks_may_lose_five_points() -> None:
    assert task(GatesOptions(), solved(60, 56)).state == "passed"
    row = task(GatesOptions(), solved(60, 55))
    assert row.state == "failed"
    assert "+6.2 points lost" in row.measured
    assert "quantization_aware" in row.change
    assert task(GatesOptions(), solved(50, 60)).state == "passed"
    assert task(GatesOptions(), {}).state == "skipped"


def test_golden_chats_are_many_and_of_every_kind() -> None:
    chats = golden()
    assert len(chats) >= 20
    assert {turn.role for chat in chats for turn in chat} == {"system", "user", "assistant"}
    assert any("<|im_end|>" in turn.content for chat in chats for turn in chat)
    assert any(ord(letter) > 0xFFFF for chat in chats for turn in chat for letter in turn.content)


def test_without_a_quantised_model_every_gate_is_skipped(tmp_path: Path) -> None:
    """Such a recipe has the step too: one with the quantizer gguf-adapter, for example."""
    step = RecordingStep.at(tmp_path, "report/gates")
    GatesEvaluator(GatesOptions()).evaluate(step, [Artifact("model/hf", tmp_path, "0", "base", "source")], None, None)
    rows = json.loads((step.output / "gates.json").read_text())["gates"]
    assert {row["gate"]: row["state"] for row in rows} == dict.fromkeys(GATES, "skipped")
    assert [event.gate for event in step.events if isinstance(event, GateChecked)] == list(GATES)
    assert {row["measured"] for row in rows} == {"the recipe makes no quantised model"}
