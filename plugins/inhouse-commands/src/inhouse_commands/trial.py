"""The first units of one step's work, tried and measured: ``python -m inhouse_commands.trial``.

A process of its own: the backend works on the real inputs into a temporary folder, and the process ends as soon
as enough is known, without a checkpoint. The argument is a JSON file that says what to try (:class:`Trial`); each
line on standard output is a :class:`Reading`. Standard input is a pipe that says nothing: when it closes, the other
end has died, and so does the trial. Wrappers of steps (the hook ``inhouse_step``) are left out: they may tell
others of a run.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import frozen

from inhouse import codec
from inhouse.bus import Bus
from inhouse.cli.common import load_recipe, open_kernel
from inhouse.errors import InhouseError, StepError
from inhouse.kernel import METHODS
from inhouse.memory import PeakMemory, resident_bytes
from inhouse.plan import Plan, PlannedStep, gather
from inhouse.services import LiveServices
from inhouse.step import RunningStep
from inhouse.values import Artifact

BUDGET = 20.0
"""Seconds after which a trial ends, if two units are done."""
FINISH = 10.0
"""Seconds of work that are rather done than told from what was done."""
_EVERY = 0.02
"""Seconds between two ticks that are kept."""


@frozen
class Trial:
    """What to try: a step of a recipe with the values over it, and the products that stand for its inputs.

    With ``first`` it ends after the first unit of work that a held-out evaluation follows.
    """

    recipe: str
    sets: tuple[str, ...]
    step: str
    products: tuple[Artifact, ...]
    folder: Path
    budget: float
    first: bool = False


@frozen
class Failure:
    """A typed error on its way to another process."""

    message: str
    where: str | None
    hint: str | None
    plugin: str | None
    exit_code: int

    @classmethod
    def of(cls, error: InhouseError) -> Failure:
        """What the error says."""
        return cls(error.message, error.where, error.hint, error.plugin, error.exit_code)

    def error(self) -> InhouseError:
        """The error again, as one of no class of its own, with its exit code."""
        made = InhouseError(self.message, where=self.where, hint=self.hint, plugin=self.plugin)
        made.exit_code = self.exit_code
        return made


@frozen
class Reading:
    """What is known so far: units done, seconds and peak resident bytes of the whole step.

    ``first`` is when the first unit was done, in seconds since the step began; ``evaluated`` whether a held-out
    loss was measured since. ``last`` ends the trial; ``whole`` says that the step ran to its end, so that
    nothing is an estimate.
    """

    done: float = 0
    total: float = 0
    unit: str = ""
    seconds: float | None = None
    memory_bytes: int | None = None
    first: float | None = None
    evaluated: bool = False
    last: bool = False
    whole: bool = False
    failure: Failure | None = None


@frozen
class Tick:
    """One call of ``step.progress``: seconds since the step began, and whether a held-out loss came before it."""

    at: float
    done: float
    total: float
    unit: str
    evaluated: bool = False


def seconds_of(ticks: Sequence[Tick]) -> float | None:
    """Seconds of a whole step from the ticks of one count; None until a unit beyond the first is done.

    Set-up and the first unit (it warms up) count as measured, each other unit as the mean of those seen. Gaps
    with a held-out evaluation are apart: what they took beyond their units comes again as often as it will.
    """
    begun = [each for each in ticks if each.done > 0]
    if len(begun) < 2 or begun[-1].done <= begun[0].done or begun[-1].total <= 0:
        return None
    gaps = [(after.at - before.at, after.done - before.done, after.evaluated) for before, after in pairwise(begun)]
    plain = [each for each in gaps if not each[2]] or gaps
    unit = sum(seconds for seconds, _, _ in plain) / sum(units for _, units, _ in plain)
    last = begun[-1]
    told = last.at + max(0.0, last.total - last.done) * unit
    extra = [max(0.0, seconds - units * unit) for seconds, units, evaluated in gaps if evaluated]
    if extra:
        every = next(each.done for each in begun if each.evaluated)
        told += sum(extra) / len(extra) * max(0, last.total // every - last.done // every)
    return told


class TrialStep(RunningStep):
    """A step that reads the clock at each ``progress`` and ends the trial through ``end`` when enough is known."""

    def __init__(
        self,
        planned: PlannedStep,
        services: LiveServices,
        plan: Plan,
        trial: Trial,
        *,
        peak: PeakMemory,
        tell: Callable[[Reading], None],
        end: Callable[[], None],
        started: float,
    ) -> None:
        outputs = {kind: trial.folder / "output" / kind.replace("/", "-") for kind in planned.produces}
        checkpoints = trial.folder / "checkpoints"
        for folder in (*outputs.values(), checkpoints):
            folder.mkdir(parents=True)
        super().__init__(
            planned,
            Bus(),
            services,
            recipe=plan.recipe,
            outputs=outputs,
            checkpoints=checkpoints,
            history=(),
            cancel=threading.Event(),
        )
        self.ticks: list[Tick] = []
        self._trial, self._started = trial, started
        self._peak, self._tell, self._end = peak, tell, end
        self._evaluated = False

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        """Notes the time; does not return when the trial has seen enough."""
        at = time.perf_counter() - self._started
        anew = bool(self.ticks) and (unit != self.ticks[-1].unit or done < self.ticks[-1].done)
        if anew:
            self.ticks.clear()  # another count: what went before it is set-up
        elif self.ticks and at - self.ticks[-1].at < _EVERY:
            return
        self.ticks.append(Tick(at, done, total, unit, self._evaluated))
        self._evaluated = False
        seconds = seconds_of(self.ticks)
        enough = seconds is not None and at >= self._trial.budget and seconds - at > FINISH
        if self._trial.first:
            enough = done > 0 and self.ticks[-1].evaluated
        self._tell(self.reading(seconds, last=enough))
        if enough:
            self._end()

    def metric(self, name: str, value: float, *, at: int) -> None:
        """Of what is measured only the held-out loss matters here: it takes time of its own."""
        self._evaluated = self._evaluated or name == "heldout_loss"

    def reading(self, seconds: float | None, *, last: bool = False, whole: bool = False) -> Reading:
        """What is known at the last tick."""
        tick = self.ticks[-1] if self.ticks else Tick(0.0, 0, 0, "")
        memory = max(self._peak.bytes, resident_bytes()) if last else self._peak.bytes
        return Reading(
            tick.done,
            tick.total,
            tick.unit,
            seconds,
            memory,
            first=next((each.at for each in self.ticks if each.done > 0), None),
            evaluated=any(each.evaluated for each in self.ticks),
            last=last,
            whole=whole,
        )


def attempt(trial: Trial, tell: Callable[[Reading], None], end: Callable[[], None]) -> Reading:
    """Does the step's work, from the recipe on; the last reading, if the work comes to its end.

    Raises typed errors; any other that the backend raises becomes a ``StepError``, as in a run.
    """
    plan = open_kernel(None).plan(load_recipe(trial.recipe, trial.sets))
    planned = next(each for each in plan.steps if each.name == trial.step)
    inputs: list[Any] = gather(planned, {(each.step, each.kind): each for each in trial.products}) or []
    label = planned.chosen.backend.label
    started = time.perf_counter()
    try:
        method = getattr(planned.chosen.make(), METHODS[planned.stage])
        with closing(LiveServices(plan.answering)) as services, PeakMemory() as peak:
            step = TrialStep(planned, services, plan, trial, peak=peak, tell=tell, end=end, started=started)
            method(step, *inputs)
            return step.reading(time.perf_counter() - started, last=True, whole=True)
    except InhouseError as error:
        error.plugin = error.plugin or label
        raise
    except Exception as error:
        said = f"step {planned.name} failed: {type(error).__name__}: {error}"
        raise StepError(said, plugin=label, hint="report it to the plugin's authors") from error


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _die_first() -> None:
    """Where memory runs out, this process goes and not another of the user's (Linux)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main(file: str) -> None:
    """One trial. What backends print goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    trial = codec.loads(Path(file).read_bytes(), Trial, where=file)
    threading.Thread(target=_end_with_parent, args=(trial.folder,), daemon=True).start()
    _die_first()

    def tell(reading: Reading) -> None:
        lines.write(codec.dumps(reading) + "\n")
        lines.flush()

    try:
        tell(attempt(trial, tell, lambda: os._exit(0)))
    except InhouseError as error:
        tell(Reading(last=True, failure=Failure.of(error)))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
