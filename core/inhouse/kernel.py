"""Runs a plan: look a step up in the store, or do its work and commit. The command line is thin over this."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path

from attrs import evolve, frozen

from inhouse import events, runs
from inhouse import options as opt
from inhouse.artifacts import Manifest, Store
from inhouse.bus import Bus
from inhouse.codec import EventCodec
from inhouse.errors import InhouseError, Interrupted, PluginError, StepError
from inhouse.memory import PeakMemory
from inhouse.plan import Inputs, Plan, PlannedStep, Planner, bind, cached, disk_needed, gather, key_of
from inhouse.plugins import Registry
from inhouse.recipe import Recipe, unknown
from inhouse.services import LiveServices
from inhouse.step import RunningStep
from inhouse.values import Artifact, StepRecord

HOME = ".inhouse"
METHODS = {
    "source": "produce",
    "trainer": "train",
    "quantizer": "quantize",
    "indexer": "index",
    "evaluator": "evaluate",
    "packager": "package",
}
"""The method of a stage backend that does its work."""


@frozen
class Run:
    """What a run made: its record, and the products by (step, kind)."""

    record: runs.RunRecord
    products: dict[tuple[str, str], Artifact]

    def __getitem__(self, step: str) -> Artifact:
        """The first product of a step; ``KeyError`` when there is no such step."""
        return {name: artifact for (name, _), artifact in reversed(self.products.items())}[step]


class Kernel:
    """Plugins, store and runs under one home (``INHOUSE_HOME``, else ``./.inhouse``)."""

    def __init__(self, home: str | Path | None = None, *, registry: Registry | None = None) -> None:
        self.home = Path(home or os.environ.get("INHOUSE_HOME") or HOME).absolute()
        self.store = Store(self.home)
        self._registry = registry

    @cached_property
    def registry(self) -> Registry:
        """The installed plugins, found on first use."""
        return self._registry or Registry()

    @cached_property
    def codec(self) -> EventCodec:
        """Events of the core and of plugins as JSON."""
        return EventCodec(self.registry.event_types())

    def plan(self, recipe: Recipe, given: Mapping[tuple[str, str], Artifact] | None = None) -> Plan:
        """Checked steps in order. ``given`` are artifacts by (name, kind) that steps may take.

        Raises ``RecipeError``, ``ResourceError`` or ``PluginError``.
        """
        planner = Planner(recipe, self.registry, given or {})
        plan = planner.plan()
        planner.probe(plan, self.cached(plan))
        return plan

    def cached(self, plan: Plan) -> dict[str, Manifest]:
        """Steps of a plan whose result is in the store."""
        return cached(plan, self.store)

    def run(
        self,
        recipe: Recipe,
        *,
        given: Mapping[tuple[str, str], Artifact] | None = None,
        until: str | None = None,
        terminal: bool = False,
        cancel: threading.Event | None = None,
        bus: Bus | None = None,
    ) -> Run:
        """Runs a recipe (to the step ``until``), skipping what is in the store.

        Events go to subscribers of installed plugins and to ``bus`` if one is given, and to the run's
        journal. Raises typed errors; the run's record says how it ended in any case.
        """
        plan = self.plan(recipe, given)
        if until:
            names = [step.name for step in plan.steps]
            if until not in names:
                raise unknown("step", until, names, "--until")
            plan = evolve(plan, steps=plan.steps[: names.index(until) + 1])
        done = self.cached(plan)
        self.store.check_disk(disk_needed(plan, done))
        with runs.open_run(self.home, recipe, self.codec, bus) as opened:
            self.registry.call("inhouse_subscribers", bus=opened.bus, terminal=terminal)
            return _RunInProgress(self, plan, opened, cancel or threading.Event()).run()


class _RunInProgress:
    """One pass over the steps of a plan."""

    def __init__(self, kernel: Kernel, plan: Plan, opened: runs.OpenRun, cancel: threading.Event) -> None:
        self.kernel = kernel
        self.plan = plan
        self.recipe = plan.recipe
        self.opened = opened
        self.cancel = cancel
        self.products = dict(plan.given)
        self.history: list[StepRecord] = []
        self.executor = plan.executor.make()
        self.failures_told = 0

    def run(self) -> Run:
        started = time.perf_counter()
        self.publish(events.RunStarted(self.recipe.name, tuple(step.name for step in self.plan.steps)))
        self._tell_failures()
        if self.plan.left_out:
            self.publish(events.Noticed("gates", f"left out: {self.plan.left_out}", "warning"))
        try:
            with closing(LiveServices(self.plan.answering)) as services:
                for position, step in enumerate(self.plan.steps, 1):
                    self._step(step, position, services)
            bundle = self._deploy()
        except BaseException as error:
            message = str(error) or type(error).__name__
            self.opened.finish(self.history, time.perf_counter() - started, error=message)
            self.publish(events.RunFailed(self.recipe.name, message))
            if isinstance(error, KeyboardInterrupt):
                raise _stopped() from error
            raise
        seconds = time.perf_counter() - started
        report = next((str(a.path) for (_, kind), a in self.products.items() if kind == "report"), None)
        record = self.opened.finish(self.history, seconds, bundle=bundle, report=report)
        self.publish(events.RunFinished(self.recipe.name, seconds, record.peak_memory_bytes, bundle))
        return Run(record, self.products)

    def publish(self, event: events.Event) -> None:
        self.opened.bus.publish(event)

    def _tell_failures(self) -> None:
        failures = self.kernel.registry.failures
        for each in failures[self.failures_told :]:
            self.publish(events.PluginFailed(f"{each.distribution} {each.version}", each.reason))
        self.failures_told = len(failures)

    def _wait(self, step: PlannedStep, times: int = 0) -> None:
        if self.cancel.is_set():
            raise _stopped()
        if times == 1:
            self.publish(events.Noticed(step.name, "another run is at this step; waiting for it"))

    def _step(self, step: PlannedStep, position: int, services: LiveServices) -> None:
        self._wait(step)
        inputs = gather(step, self.products)
        if inputs is None:  # the plan joined them; a step that did not make what its spec says
            raise PluginError(f"an input of step {step.name} was not made", plugin=step.chosen.backend.label)
        store, key = self.kernel.store, key_of(step, inputs, self.recipe)
        started = time.perf_counter()
        found = store.find(key)
        with nullcontext() if found else store.lock(key, lambda times: self._wait(step, times)):
            found = found or store.find(key)  # another run may have made it meanwhile
            manifest = found or self._work(step, key, inputs, position, services)
        hit = found is not None
        seconds, peak = time.perf_counter() - started, manifest.peak_memory_bytes
        self.history.append(_record(step, manifest, seconds, hit=hit))
        self.products |= bind(step, store.artifacts(manifest))
        name = step.chosen.backend.spec.name
        self.publish(events.StepFinished(step.name, step.stage, name, seconds, hit, peak, manifest.meta))
        self._tell_failures()

    def _work(self, step: PlannedStep, key: str, inputs: Inputs, position: int, services: LiveServices) -> Manifest:
        store, backend = self.kernel.store, step.chosen.backend
        with self._failing(step):
            resumed = store.resumable(key)
            outputs, checkpoints = store.begin(key, step.produces)
            running = RunningStep(
                step,
                self.opened.bus,
                services,
                recipe=self.recipe,
                outputs=outputs,
                checkpoints=checkpoints,
                history=tuple(self.history),
                cancel=self.cancel,
                earlier=partial(store.earlier, step.name, backend.spec.name),
            )
            self.publish(
                events.StepStarted(step.name, step.stage, backend.spec.name, position, len(self.plan.steps), resumed)
            )
            started = time.perf_counter()
            method = getattr(step.chosen.make(), METHODS[step.stage])
            with PeakMemory() as peak, self.kernel.registry.wrapped("inhouse_step", step=running):
                self.executor.execute(lambda: method(running, *inputs))
            unsealed = Manifest(
                fingerprint=key,
                step=step.name,
                stage=step.stage,
                backend=backend.spec.name,
                plugin=f"{backend.distribution} {backend.version}",
                version=backend.spec.version,
                options=opt.plain(step.chosen.options),
                seed=self.recipe.seed,
                parents=_parents(inputs),
                seconds=time.perf_counter() - started,
                peak_memory_bytes=peak.bytes,
                meta=running.facts,
            )
            manifest = store.commit(unsealed, outputs)
        for product, artifact in zip(manifest.products, store.artifacts(manifest), strict=True):
            size = sum(each.size for each in product.files)
            self.publish(events.ArtifactCommitted(step.name, product.kind, str(artifact.path), product.digest, size))
        return manifest

    @contextmanager
    def _failing(self, step: PlannedStep) -> Iterator[None]:
        """Names the plugin in what goes wrong in a step; what is no typed error leaves a traceback file."""
        backend = step.chosen.backend
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            failed = error if isinstance(error, (InhouseError, KeyboardInterrupt)) else self._untyped(step, error)
            if isinstance(failed, InhouseError) and not failed.plugin and not isinstance(failed, Interrupted):
                failed.plugin = backend.label
            self.publish(events.StepFailed(step.name, step.stage, backend.spec.name, str(failed)))
            if failed is error:
                raise
            raise failed from error

    def _untyped(self, step: PlannedStep, error: Exception) -> StepError:
        trace = self.opened.folder / f"{step.name}.traceback.txt"
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        return StepError(
            f"step {step.name} failed: {type(error).__name__}: {error}",
            where=str(trace),
            hint="run the same command again to go on; report the file above to the plugin's authors",
        )

    def _deploy(self) -> str | None:
        """Where the bundle lies for its owner: where its packager puts it, else in the store."""
        step = next((each for each in self.plan.steps if (each.name, "bundle") in self.products), None)
        if step is None:
            return None
        made, packager = self.products[step.name, "bundle"], step.chosen.make()
        if not hasattr(packager, "deploy"):
            return str(made.path)
        with self._failing(step):
            place = self.kernel.home / "bundles" / self.recipe.name
            return str(packager.deploy(made, place, lambda text: self.publish(events.Noticed(step.name, text))))


def _stopped() -> Interrupted:
    return Interrupted("stopped; finished steps are kept", hint="run the same command again")


def _record(step: PlannedStep, manifest: Manifest, seconds: float, *, hit: bool) -> StepRecord:
    return StepRecord(
        name=step.name,
        stage=step.stage,
        backend=step.chosen.backend.spec.name,
        seconds=seconds,
        cached=hit,
        made_seconds=manifest.seconds,
        peak_memory_bytes=manifest.peak_memory_bytes,
        plugin=manifest.plugin,
        fingerprint=manifest.fingerprint,
        options=manifest.options,
        products={product.kind: product.digest for product in manifest.products},
        meta=manifest.meta,
    )


def _parents(inputs: Inputs) -> tuple[str, ...]:
    flat = [artifact for each in inputs for artifact in (each if isinstance(each, list) else [each]) if artifact]
    return tuple(f"{each.step}:{each.kind}:{each.digest}" for each in flat)
