"""The study: trials in a database, what to try next, and which trial is hopeless. All of Optuna is here.

What is tried next is a function of the trials so far, the seed and the trial's number; so a search that was
stopped and went on tries what one that was not would have tried.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from attrs import frozen
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from .space import Parameter, all_settings
from .storage import opened
from .subject import Value

RANDOM_TRIALS = 5
"""Trials before the model of good settings (TPE) is asked; Optuna's ten would be most of a small search."""
WHOLE_TRIALS = 4
"""Trials that come to their end before any is cut short."""
FIRST_JUDGED = 2
"""The first measurement is never judged: the learning rate has hardly risen by then."""
WEIGHED_FROM = 10
"""Whole trials from which the options are weighed against each other; the best tenth of fewer is none."""
DIGITS = 4
"""Digits of a real number that are tried; more say nothing and are tedious to type."""

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "cut short",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "stopped",
    TrialState.WAITING: "stopped",
}
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
Curve = Sequence[tuple[int, float]]
"""(optimiser step, held-out loss in nats per token), in order."""


@frozen
class Row:
    """One trial. ``number`` counts from 1; ``heldout_loss`` is its lowest, at optimiser step ``at``.

    ``state`` is done, cut short, failed or stopped (it goes on); ``key`` the fingerprint of what it made,
    which is ``ours`` when this search made it, under the home ``owner``.
    """

    number: int
    params: Mapping[str, Value]
    state: str
    heldout_loss: float | None
    at: int | None
    seconds: float
    reason: str = ""
    curve: tuple[tuple[int, float], ...] = ()
    key: str = ""
    ours: bool = False
    owner: str = ""


class Trial:
    """A trial that is under way. Each fact is in the database when the method returns."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial
        self.number = trial.number + 1
        self.params: Mapping[str, Value] = dict(trial.params)
        self.curve: dict[int, float] = {int(at): float(loss) for at, loss in trial.user_attrs.get("curve", [])}

    def fact(self, name: str, default: Any = None) -> Any:
        """What was noted before."""
        return self._trial.user_attrs.get(name, default)

    def note(self, **facts: Any) -> None:
        """Keeps facts with the trial."""
        for name, value in facts.items():
            self._trial.set_user_attr(name, value)

    def measured(self, at: int, loss: float) -> None:
        """One held-out loss; one heard before (by a run that went on from a checkpoint) changes nothing."""
        if at in self.curve:
            return
        self.curve[at] = loss
        self._trial.report(loss, len(self.curve))
        self.note(curve=sorted(self.curve.items()))

    def hopeless(self) -> bool:
        """Whether the lowest loss so far is above the median of whole trials after as many measurements."""
        return bool(self.curve) and self._trial.should_prune()

    def done(self, loss: float, at: int | None, curve: Curve) -> None:
        """It came to its end."""
        self.note(at=at, curve=[list(each) for each in curve])
        self._study.tell(self._trial, loss)

    def cut_short(self) -> None:
        """It was hopeless."""
        self._study.tell(self._trial, state=TrialState.PRUNED)

    def failed(self, reason: str) -> None:
        """It did not come to its end, and why."""
        self.note(reason=reason)
        self._study.tell(self._trial, state=TrialState.FAIL)


class Study:
    """The trials of one search. ``owner`` names the home; trials of other homes are not gone on with here."""

    def __init__(self, study: optuna.Study, space: Sequence[Parameter], *, seed: int, owner: str) -> None:
        self._study, self._space = study, space
        self._distributions = {each.name: _distribution(each) for each in space}
        self._seed, self._owner = seed, owner

    def rows(self) -> list[Row]:
        """All trials, in order."""
        return [_row(each) for each in self._study.get_trials(deepcopy=False)]

    def ended(self) -> int:
        """How many have ended, in whatever way."""
        return len(self._study.get_trials(deepcopy=False, states=ENDED))

    def next(self, first: Mapping[str, Value] | None) -> Trial | None:
        """The one that was stopped here, else a new one (``first``, if there is none yet); None when every
        setting was tried."""
        for stopped in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if stopped.user_attrs.get("owner") == self._owner:
                return self._open(optuna.Trial(self._study, stopped._trial_id))
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            history = self._study.get_trials(deepcopy=False)
            params = first if first and not history else propose(history, self._space, seed=self._seed)
            if params is None:
                return None
            self._study.enqueue_trial(dict(params), user_attrs={"owner": self._owner})
        return self._open(self._study.ask())

    def importance(self) -> dict[str, float]:
        """Shares by which the options decide the loss (PED-ANOVA); empty when there is too little to tell."""
        whole = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(self._space) < 2 or len(whole) < WEIGHED_FROM:
            return {}
        shares = optuna.importance.get_param_importances(self._study)
        return {name: share for name, share in shares.items() if math.isfinite(share)}

    def _open(self, trial: optuna.Trial) -> Trial:
        for name, distribution in self._distributions.items():
            trial._suggest(name, distribution)  # the value it was queued with; it may have been killed before
        made = Trial(self._study, trial)
        made.note(owner=self._owner)
        return made


@contextmanager
def open_study(url: str, name: str, space: Sequence[Parameter], *, seed: int, owner: str) -> Iterator[Study]:
    """The study called ``name`` in the database at ``url``, made when there is none.

    Raises ``ResourceError`` for a database that cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with opened(url) as storage:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            load_if_exists=True,
            direction="minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: trials are queued with their values
            pruner=optuna.pruners.MedianPruner(n_startup_trials=WHOLE_TRIALS, n_warmup_steps=FIRST_JUDGED),
        )
        yield Study(study, space, seed=seed, owner=owner)


def propose(history: Sequence[FrozenTrial], space: Sequence[Parameter], *, seed: int) -> dict[str, Value] | None:
    """The setting to try after ``history``, none that is in it; None when a finite space was tried whole.

    Random for the first trials, then by TPE (Bergstra et al. 2011) over all options together, as Optuna has
    it. A trial that failed counts as the worst, so that the search keeps away from its like.
    """
    drawn = _seed(seed, len(history))
    scratch = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=drawn))
    scratch.add_trials(_as_worst(history))
    asked = scratch.ask({each.name: _distribution(each) for each in space}).params
    setting = {each.name: _rounded(each, asked[each.name]) for each in space}
    tried = {tuple(trial.params.get(each.name) for each in space) for trial in history}
    if tuple(setting.values()) not in tried:
        return setting
    everything = all_settings(space)
    if everything is None:
        return setting  # drawn twice out of the real numbers: rounding; it is found in the store or made again
    untried = list(itertools.islice((each for each in everything if each not in tried), 10_000))
    if not untried:
        return None
    chosen = random.Random(drawn).choice(untried)  # noqa: S311  (a search, not a secret)
    return {each.name: value for each, value in zip(space, chosen, strict=True)}


def _as_worst(history: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
    worst = max((each.value for each in history if each.value is not None), default=0.0) + 1.0
    for each in history:
        if each.state is TrialState.FAIL and each.params:
            yield create_trial(value=worst, params=each.params, distributions=each.distributions)
        elif each.state is not TrialState.WAITING:
            yield each


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])


def _rounded(parameter: Parameter, value: Any) -> Value:
    if parameter.choices or parameter.whole:
        made: Value = value
        return made
    return min(max(float(f"{value:.{DIGITS}g}"), parameter.low), parameter.high)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _row(trial: FrozenTrial) -> Row:
    facts = trial.user_attrs
    curve = tuple((int(at), float(loss)) for at, loss in facts.get("curve", []))
    lowest = min(curve, key=lambda each: each[1], default=(None, None))
    done = trial.state is TrialState.COMPLETE
    return Row(
        number=trial.number + 1,
        params=dict(trial.params),
        state=STATES[trial.state],
        heldout_loss=trial.value if done else lowest[1],
        at=facts.get("at") if done else lowest[0],
        seconds=float(facts.get("seconds", 0.0)),
        reason=facts.get("reason", ""),
        curve=curve,
        key=facts.get("key", ""),
        ours=bool(facts.get("ours", False)),
        owner=facts.get("owner", ""),
    )
