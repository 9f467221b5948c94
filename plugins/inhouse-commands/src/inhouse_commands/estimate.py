"""What steps that are not cached will take: a trial of each trainer in a child process, read while it works."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import fields, frozen

from inhouse import codec
from inhouse.artifacts import Manifest, Store
from inhouse.errors import InhouseError, StepError
from inhouse.plan import Plan, PlannedStep, bind
from inhouse.values import Artifact
from inhouse_commands.trial import BUDGET, Reading, Trial

LIMIT = 300.0
"""Seconds after which a trial is ended whatever it knows."""
ERRORS = "stderr.txt"
"""What a trial and its backend write to standard error."""
OFTEN = 1_000_000
"""Evaluations in an epoch: after every step."""
SMALLER = ("micro_batch_tokens", "batch_tokens", "micro_batch_size", "batch_size", "max_length", "context")
"""Options that decide how much a trainer holds at once, by the names that trainers give them."""

Products = Mapping[tuple[str, str], Artifact]


@frozen
class Estimate:
    """Seconds and peak resident bytes of a step, None where unknown; how that is known; what went wrong."""

    seconds: float | None = None
    memory_bytes: int | None = None
    note: str = ""
    error: InhouseError | None = None


def products_of(plan: Plan, store: Store, done: Mapping[str, Manifest]) -> dict[tuple[str, str], Artifact]:
    """What is made by (step, kind); where a trainer or quantizer is not cached and makes a kind that it takes,
    what it takes stands in for it."""
    found = dict(plan.given)
    for step in plan.steps:
        if step.name in done:
            found |= bind(step, store.artifacts(done[step.name]))
        elif step.stage in ("trainer", "quantizer"):
            taken = (found[name] for name in _inputs(step) if name in found)
            found |= bind(step, tuple(each for each in taken if each.kind in step.produces))
    return found


def not_made(plan: Plan, step: PlannedStep, products: Products) -> str | None:
    """The last step that has to run before ``step`` can be tried; None when it can be."""
    order = [each.name for each in plan.steps]
    wanted = {_maker(plan, name) for name in _inputs(step) if name not in products}
    return max(wanted, key=order.index) if wanted else None


def smaller(plan: Plan, step: PlannedStep) -> str:
    """What to try where a step needs more memory than there is: options that its backend has, one as an example."""
    options = step.chosen.options
    there = [each.name for each in fields(type(options))]
    usable = [name for name in SMALLER if name in there and _count(getattr(options, name)) > 1]
    if not usable:
        return "a smaller base model, or a machine with more memory"
    key = f"{_path(plan, step)}.{usable[0]}"
    return f"a smaller {' or '.join(usable[:2])}: --set {key}={_count(getattr(options, usable[0])) // 2}"


class Trials:
    """Tries steps of one plan; ``tell`` gets a step's name and what is known of it while it is tried."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        done: Mapping[str, Manifest],
        *,
        recipe: str,
        sets: Sequence[str] = (),
        home: str | None = None,
        tell: Callable[[str, Reading], None] = lambda *_: None,
        limit: float = LIMIT,
    ) -> None:
        self._plan, self._done = plan, done
        self._products = products_of(plan, store, done)
        self._recipe, self._sets, self._home = recipe, tuple(sets), home
        self._tell, self._limit = tell, limit

    def estimate(self, step: PlannedStep) -> Estimate:
        """Seconds and memory of a step by a trial; a failure of any kind is in what it returns."""
        last = not_made(self._plan, step, self._products)
        if last:
            return Estimate(note=f"its inputs are not made yet; to measure it: {self._until(last)}")
        seen, died = self._try(step)
        if died:
            said = f"the trial {died}" + (f" after {_far(seen)}" if seen.total else "")
            hint = smaller(self._plan, step) if signal.SIGKILL.name in died else None
            error = StepError(f"step {step.name}: {said}", hint=hint, plugin=step.chosen.backend.label)
            return Estimate(note=said, error=error)
        if seen.failure:
            return Estimate(note="the trial failed", error=seen.failure.error())
        if seen.seconds is None:
            return Estimate(note=f"the trial did not do two units of work in {self._limit:.0f} s")
        return self._with_evaluations(step, seen, self._note(step, seen))

    def _with_evaluations(self, step: PlannedStep, seen: Reading, note: str) -> Estimate:
        """Adds held-out evaluations that were not seen, where the backend has the option: measured by a trial in
        which one follows the first unit."""
        options = step.chosen.options
        count = _count(getattr(options, "evaluations", 0)) * max(1, _count(getattr(options, "epochs", 1)))
        known = Estimate(seen.seconds, seen.memory_bytes, note)
        if seen.whole or seen.evaluated or not count:
            return known
        extra, died = self._try(step, (f"{_path(self._plan, step)}.evaluations={OFTEN}",), first=True)
        if died or extra.first is None or seen.first is None or not extra.evaluated:
            return known
        seconds = (seen.seconds or 0.0) + count * max(0.0, extra.first - seen.first)
        memory = max(seen.memory_bytes or 0, extra.memory_bytes or 0)
        return Estimate(seconds, memory, f"{note} and one of {count} held-out evaluations")

    def _note(self, step: PlannedStep, seen: Reading) -> str:
        note = "measured to its end" if seen.whole else f"told from {_far(seen)}"
        stand_ins = sorted({name for name, _ in _inputs(step)} - self._done.keys())
        if stand_ins:
            note = f"what {' and '.join(stand_ins)} takes stood in for what it will make; {note}"
        return note

    def _try(self, step: PlannedStep, more: tuple[str, ...] = (), *, first: bool = False) -> tuple[Reading, str | None]:
        """The last reading of a trial, and how it ended if it did not end itself and was not ended by us."""
        used = tuple(self._products[name] for name in _inputs(step))
        with TemporaryDirectory(prefix="inhouse-plan-", ignore_cleanup_errors=True) as folder:
            sets = (*self._sets, *more)
            return self._watch(step, Trial(self._recipe, sets, step.name, used, Path(folder), BUDGET, first=first))

    def _until(self, last: str) -> str:
        flags = [part for each in self._sets for part in ("--set", each)]
        flags += ["--home", self._home] if self._home else []
        return shlex.join(["inhouse", "run", self._recipe, "--until", last, *flags])

    def _watch(self, step: PlannedStep, trial: Trial) -> tuple[Reading, str | None]:
        reading, late = Reading(), threading.Event()
        with _child(trial) as child:

            def end() -> None:
                late.set()
                _kill(child)

            limit = threading.Timer(self._limit, end)
            limit.daemon = True
            limit.start()
            try:
                for line in child.stdout or ():
                    reading = codec.loads(line, Reading, where="the trial")
                    self._tell(step.name, reading)
                    if reading.last:
                        return reading, None
                code = child.wait()
                return reading, None if late.is_set() else _how(code, trial.folder / ERRORS)
            finally:
                limit.cancel()


def _inputs(step: PlannedStep) -> list[tuple[str, str]]:
    return [name for group in step.inputs if group for name in group]


def _maker(plan: Plan, wanted: tuple[str, str]) -> str:
    """The step to run for a product: its own, or, where an input can stand in, the one that makes that."""
    name, kind = wanted
    step = next(each for each in plan.steps if each.name == name)
    same = [each for each in _inputs(step) if each[1] == kind]
    return _maker(plan, same[-1]) if same and step.stage in ("trainer", "quantizer") else name


def _path(plan: Plan, step: PlannedStep) -> str:
    """Where the options of a step's backend stand in the recipe."""
    path = next(each.section.path for each in plan.recipe.steps if each.name == step.name)
    return f"{path}.{step.chosen.backend.spec.name}"


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _far(reading: Reading) -> str:
    unit = reading.unit if reading.unit.endswith("s") else f"{reading.unit}s"
    return f"{reading.done:.10g} of {reading.total:.10g} {unit}"


@contextmanager
def _child(trial: Trial) -> Iterator[subprocess.Popen[str]]:
    """The trial's process, at work; it is gone with all its children when the block ends."""
    file = trial.folder / "trial.json"
    file.write_text(codec.dumps(trial), encoding="utf-8")
    with (
        (trial.folder / ERRORS).open("w", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603  (this interpreter, our module, our file)
            [sys.executable, "-P", "-m", "inhouse_commands.trial", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env={**os.environ, "TMPDIR": str(trial.folder)},
            start_new_session=True,  # Ctrl-C is the parent's; its children go by their group
        ) as child,
    ):
        try:
            yield child
        finally:
            _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _how(code: int, errors: Path) -> str:
    """How a child ended that did not say so itself."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed ({name}{', as when memory runs out' if name == 'SIGKILL' else ''})"
    lines = errors.read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"ended with exit code {code}" + (f" ({said})" if said else "")
