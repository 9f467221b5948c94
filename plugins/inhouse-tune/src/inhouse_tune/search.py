"""The search: trial after trial is a run of the recipe, until there are enough or the user stops it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import define, frozen

from inhouse.artifacts import fingerprint
from inhouse.bus import Bus
from inhouse.errors import InhouseError, Interrupted, RecipeError, ResourceError, StepError
from inhouse.events import MetricMeasured, StepStarted
from inhouse.kernel import Kernel, Run
from inhouse.plan import gather, key_of
from inhouse.recipe import Recipe
from inhouse.values import Artifact, StepRecord

from .space import Parameter
from .study import Curve, Row, Study, Trial
from .subject import Subject, Value

METRIC = "heldout_loss"


class Stop(threading.Event):
    """What the kernel of a trial looks at: set for a hopeless trial, and while the user wants to stop."""

    def __init__(self, user: threading.Event) -> None:
        super().__init__()
        self.user = user

    def is_set(self) -> bool:
        """Whether the trial has to end, for either reason."""
        return super().is_set() or self.user.is_set()


class Listener:
    """Hears the held-out losses of a trial's step and sets ``stop`` when they are hopeless."""

    def __init__(self, trial: Trial, step: str, stop: Stop) -> None:
        self.trial, self.step, self.stop = trial, step, stop
        self.began = False
        self.error: Exception | None = None

    def started(self, event: StepStarted) -> None:
        """What fails before this is not the setting's fault."""
        self.began = self.began or event.step == self.step

    def measured(self, event: MetricMeasured) -> None:
        """Keeps one loss. A database that fails ends the run; the bus would only report it."""
        if event.step != self.step or event.name != METRIC or not math.isfinite(event.value):
            return
        try:
            self.trial.measured(event.at, event.value)
            if self.trial.hopeless():
                self.stop.set()
        except Exception as error:
            self.error = error
            self.stop.set()


@frozen
class Question:
    """What is searched: the step, its options, and what every trial has in common.

    ``text`` is the recipe's file as it was read, ``given`` are the user's ``--set`` texts, ``fixed`` what a
    trial gets besides, ``inputs`` the products of the steps before.
    """

    path: Path
    text: bytes
    subject: Subject
    space: tuple[Parameter, ...]
    given: tuple[str, ...]
    fixed: Mapping[str, Value]
    inputs: Mapping[tuple[str, str], Artifact]

    def sets(self, params: Mapping[str, Value]) -> list[str]:
        """What is laid over the recipe for a trial, as ``--set`` texts."""
        return self.subject.sets({**self.subject.with_scale(params), **self.fixed}, self.given)

    def own(self) -> dict[str, Value] | None:
        """The recipe's own setting; None when it lies outside of what is searched."""
        values = {each.name: self.subject.value(each.name) for each in self.space}
        return values if all(each.has(values[each.name]) for each in self.space) else None

    def digest(self, recipe: Recipe) -> str:
        """SHA-256 of all that a trial's loss depends on beside what is searched: two settings are comparable
        only when this is the same."""
        chosen = self.subject.step.chosen.counting()
        searched = {each.name for each in self.space} | ({"alpha"} if self.tied else set())
        chosen["options"] = {
            name: value for name, value in {**chosen["options"], **self.fixed}.items() if name not in searched
        }
        inputs = gather(self.subject.step, self.inputs) or []
        return fingerprint(
            {
                "recipe": recipe.name,
                "step": self.subject.step.name,
                "space": self.space,
                "scale": self.subject.scale if self.tied else None,
                "chosen": chosen,
                "inputs": [_digests(each) for each in inputs],
                "seed": recipe.seed,
            }
        )

    @property
    def tied(self) -> bool:
        """Whether alpha goes with the rank."""
        names = {each.name for each in self.space}
        return "rank" in names and "alpha" not in names and self.subject.scale is not None


@define
class Search:
    """Runs trials. ``say`` gets one line for each that ends; ``cancel`` is the user's wish to stop."""

    kernel: Kernel
    question: Question
    study: Study
    owner: str
    cancel: threading.Event
    say: Callable[[str], None]
    terminal: bool = False

    def run(self, trials: int) -> list[Row]:
        """Until ``trials`` have ended in all, or every setting was tried; returns all of them.

        Raises ``Interrupted`` when the user stopped it, ``StepError`` when every trial failed, and typed
        errors of the recipe and of plugins.
        """
        self.sweep()
        while self.study.ended() < trials:
            if self.cancel.is_set():
                raise self._stopped(trials)
            if self.question.path.read_bytes() != self.question.text:
                raise RecipeError(
                    "was changed while the search ran", where=str(self.question.path), hint="the same command again"
                )
            trial = self.study.next(self.question.own())
            if trial is None:
                self.say(f"every setting was tried: {self.study.ended()} trials")
                break
            if not self._try(trial):
                raise self._stopped(trials)
            self.sweep()
            self._tell(trial.number, trials)
        rows = [each for each in self.study.rows() if each.state != "stopped"]
        if best_of(rows) is None:
            raise StepError(f"all {len(rows)} trials failed; the last: {rows[-1].reason}", where=self._name)
        return rows

    def sweep(self) -> None:
        """Removes what trials of this search left in the store, but for the best and what is still under way."""
        rows = self.study.rows()
        best = best_of(rows)
        for row in rows:
            if not row.ours or row.owner != self.owner or row.state == "stopped" or (best and row.key == best.key):
                continue
            if any((self.kernel.home / folder / row.key).exists() for folder in ("artifacts", "work")):
                self.kernel.store.remove(row.key)

    @property
    def _name(self) -> str:
        return self.question.subject.step.name

    def _stopped(self, trials: int) -> Interrupted:
        done = f"stopped after {self.study.ended()} of {trials} trials; they are kept, and the one under way too"
        return Interrupted(done, hint="the same command goes on from there")

    def _tell(self, number: int, trials: int) -> None:
        rows = self.study.rows()
        row, best = rows[number - 1], best_of(rows)
        setting = ", ".join(f"{name}={value}" for name, value in row.params.items())
        loss = "" if row.heldout_loss is None else f", held-out loss {row.heldout_loss:.4f} at step {row.at}"
        mark = ", the best so far" if best and best.number == number else ""
        why = f": {row.reason}" if row.reason else ""
        self.say(f"trial {number} of {trials} ({setting}): {row.state}{why}{loss}, {row.seconds:.1f} s{mark}")

    def _try(self, trial: Trial) -> bool:
        """Runs one trial to one of its ends; False when the user stopped it."""
        if trial.hopeless():  # killed between the last measurement and its end
            trial.cut_short()
            return True
        stop = Stop(self.cancel)
        listener = Listener(trial, self._name, stop)
        bus = Bus()
        bus.subscribe(MetricMeasured, listener.measured)
        bus.subscribe(StepStarted, listener.started)
        started, before = time.perf_counter(), float(trial.fact("seconds", 0.0))
        try:
            run = self._start(trial, stop, bus)
        except Interrupted:
            trial.note(seconds=before + time.perf_counter() - started)
            if listener.error:
                raise listener.error from None
            if self.cancel.is_set() or not stop.is_set():
                return False
            trial.cut_short()
            return True
        except (StepError, ResourceError) as error:
            if not listener.began or isinstance(error.__cause__, OSError):
                raise  # a full disk is not the setting's fault: the trial goes on when there is room
            trial.note(seconds=before + time.perf_counter() - started)
            trial.failed(first_line(error))
            return True
        record = next(each for each in run.record.steps if each.name == self._name)
        wall = before + time.perf_counter() - started
        trial.note(seconds=record.made_seconds if record.cached else wall)
        if listener.error:
            raise listener.error
        self._finish(trial, record)
        return True

    def _start(self, trial: Trial, stop: Stop, bus: Bus) -> Run:
        recipe = Recipe.load(self.question.path, set=self.question.sets(trial.params))
        step = next(each for each in self.kernel.plan(recipe).steps if each.name == self._name)
        inputs = gather(step, self.question.inputs)
        if inputs is not None and trial.fact("key") is None:
            key = key_of(step, inputs, recipe)
            there = self.kernel.store.find(key) is not None or self.kernel.store.resumable(key)
            trial.note(ours=not there, key=key)
        return self.kernel.run(recipe, until=self._name, terminal=self.terminal, cancel=stop, bus=bus)

    def _finish(self, trial: Trial, record: StepRecord) -> None:
        """The loss as the trainer noted it with its artifact, else as it was told."""
        noted = record.meta.get("heldout_losses") or ()
        curve: Curve = [(int(at), float(loss)) for at, loss in noted] or sorted(trial.curve.items())
        lowest = min(curve, key=lambda each: each[1], default=None)
        loss = record.meta.get(f"best_{METRIC}", lowest[1] if lowest else None)
        if loss is None:
            error = unmeasured(self.question.subject)
            trial.failed(error.message)
            self.sweep()
            raise error
        if not math.isfinite(loss):
            trial.failed("the held-out loss is not a number")
            return
        trial.done(float(loss), record.meta.get("best_step", lowest[0] if lowest else None), curve)


def unmeasured(subject: Subject) -> RecipeError:
    """The error for a trainer that tells no held-out loss, with what may bring one."""
    ways = ["give the data step a held-out file"]
    if "heldout" in subject.kinds:
        ways.append(f"--set {subject.path}.heldout=0.1")
    if "evaluations" in subject.kinds:
        ways.append(f"--set {subject.path}.evaluations=4")
    return RecipeError(
        "the trainer measured no held-out loss, so that there is nothing to compare",
        where=subject.path,
        hint=", or ".join(ways),
    )


def best_of(rows: Sequence[Row]) -> Row | None:
    """The first of the whole trials with the lowest loss; None when there is none."""
    whole = [each for each in rows if each.state == "done" and each.heldout_loss is not None]
    return min(whole, key=lambda each: (each.heldout_loss, each.number), default=None)


def first_line(error: Exception) -> str:
    """An error's message as one line, without where and what to try."""
    return (error.message if isinstance(error, InhouseError) else str(error)).partition("\n")[0]


def _digests(value: Artifact | list[Artifact] | None) -> list[str]:
    several = value if isinstance(value, list) else [value]
    return [f"{each.kind}:{each.digest}" for each in several if each]
