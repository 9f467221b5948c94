"""What every trainer has to hold: killed and resumed, it is the run that never was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inhouse_testing.recording import Killed, RecordingStep

Train = Callable[[RecordingStep], None]
"""Runs a trainer, made anew each time, on a step."""


def check_resumes(train: Train, folder: Path, *kinds: str, kill_at: int) -> RecordingStep:
    """Runs whole; runs until ``kill_at`` steps are told, then again over the checkpoints it left.

    The second must tell the losses of the first to the last digit, from the step after the kill on, and
    leave the same bytes in every file of ``kinds``. Returns the step of the whole run.
    """
    whole = RecordingStep.at(folder / "whole", *kinds)
    train(whole)
    assert len(whole.losses) > kill_at > 0, f"the training tells {len(whole.losses)} losses; kill_at is {kill_at}"
    broken = RecordingStep.at(folder / "broken", *kinds, kill_at=kill_at)
    try:
        train(broken)
    except Killed:
        pass
    else:
        raise AssertionError(f"progress({kill_at}, …) was never told, or what it raised was swallowed")
    resumed = RecordingStep.at(folder / "broken", *kinds)
    train(resumed)
    assert resumed.losses, "nothing was left to do: the kill came after the training"
    assert resumed.losses[0][0] == kill_at + 1, f"went on at step {resumed.losses[0][0]}, not {kill_at + 1}"
    assert broken.losses + resumed.losses == whole.losses, "other losses than those of the run that was not killed"
    assert [each for each in whole.heldout if each[0] > kill_at] == resumed.heldout
    for kind in whole.outputs:
        assert files(whole.outputs[kind]) == files(resumed.outputs[kind]), f"other bytes in {kind}"
    return whole


def check_repeats(train: Train, folder: Path, *kinds: str) -> None:
    """Runs twice from nothing with one seed: the same losses to the last digit and the same bytes."""
    steps = [RecordingStep.at(folder / name, *kinds) for name in ("first", "second")]
    for step in steps:
        train(step)
    first, second = steps
    assert first.losses == second.losses, "other losses with the same seed"
    for kind in first.outputs:
        assert files(first.outputs[kind]) == files(second.outputs[kind]), f"other bytes in {kind}"


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its relative path."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
