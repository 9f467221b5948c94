"""The kit finds what it is for: each check fails on a plugin that breaks it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_repeats, check_resumes


class Toy:
    """A trainer of six steps whose loss is drawn; faults are switched on by name."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults

    def train(self, step: RecordingStep) -> None:
        state = step.checkpoints / "state.json"
        losses: list[float] = json.loads(state.read_text()) if state.exists() and "forgets" not in self.faults else []
        while len(losses) < 6:
            at = len(losses) + 1
            seed: Any = None if "draws" in self.faults else f"{step.seed} {at}"
            if "data order" in self.faults and step.kill_at == 0 and (step.checkpoints / "killed").exists():
                seed = at + 100
            losses.append(random.Random(seed).random())
            step.metric("loss", losses[-1], at=at)
            state.write_text(json.dumps(losses))
            try:
                step.progress(at, 6)
            except BaseException:
                (step.checkpoints / "killed").touch()
                if "swallows" not in self.faults:
                    raise
        text = os.urandom(8).hex() if "writes" in self.faults else str(losses)
        (step.output / "model.txt").write_text(text)


def test_a_good_trainer_passes(tmp_path: Path) -> None:
    whole = check_resumes(Toy().train, tmp_path / "a", kill_at=3)
    assert len(whole.losses) == 6
    check_repeats(Toy().train, tmp_path / "b")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("forgets", "went on at step 1, not 4"),
        ("data order", "other losses than those of the run that was not killed"),
        ("swallows", "never told, or what it raised was swallowed"),
    ],
)
def test_a_trainer_that_does_not_resume_is_found(tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_resumes(Toy(fault).train, tmp_path, kill_at=3)


@pytest.mark.parametrize(
    ("fault", "said"), [("draws", "other losses with the same seed"), ("writes", "other bytes in model/hf")]
)
def test_a_trainer_that_does_not_repeat_is_found(tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_repeats(lambda step: Toy(fault).train(step), tmp_path)


def test_killing_after_the_end_is_a_mistake_of_the_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="tells 6 losses; kill_at is 6"):
        check_resumes(Toy().train, tmp_path, kill_at=6)
