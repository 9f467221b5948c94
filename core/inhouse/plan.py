"""From recipe, registry and store to ordered steps, checked before any work."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from inhouse import options as opt
from inhouse.artifacts import Manifest, Store, fingerprint, tree_bytes
from inhouse.errors import InhouseError, PluginError, RecipeError, ResourceError
from inhouse.plugins import Backend, Registry
from inhouse.recipe import Recipe, Section, StepSection, place, unknown
from inhouse.specs import Input, Slot
from inhouse.values import Artifact, Target

Inputs: TypeAlias = list[Artifact | list[Artifact] | None]
"""What a step is called with, in the order of its spec's ``consumes``."""


@frozen
class Chosen:
    """A backend with its options, as a recipe (or a bundle) chose it."""

    backend: Backend
    options: Any
    slots: Mapping[str, "Chosen"] = field(factory=dict)

    def make(self, *arguments: Any) -> Any:
        """An instance. Raises typed errors as they are, anything else as ``PluginError``."""
        return self._calling(
            f"{self.backend.spec.factory} cannot be made", self.backend.load(), self.options, *arguments
        )

    def ask(self, method: str) -> Any:
        """What an optional method (``probe``, ``describe``) says; None when the backend has none."""
        if not hasattr(self.backend.load(), method):
            return None
        return self._calling(method, getattr(self.make(), method))

    def _calling(self, what: str, called: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return called(*arguments)
        except InhouseError:
            raise
        except Exception as error:
            raise PluginError(f"{what}: {type(error).__name__}: {error}", plugin=self.backend.label) from error

    def counting(self) -> dict[str, Any]:
        """What of the choice decides output bytes."""
        return {
            "backend": f"{self.backend.distribution}:{self.backend.spec.name}",
            "version": self.backend.spec.version,
            "options": opt.counting(self.options),
            "slots": {name: each.counting() for name, each in self.slots.items()},
        }


@frozen
class PlannedStep:
    """One step; ``inputs`` are (step name, kind) for each input, in the order the backend consumes them."""

    name: str
    stage: str
    chosen: Chosen
    inputs: tuple[tuple[tuple[str, str], ...] | None, ...]
    produces: tuple[str, ...]
    uses: tuple[Chosen, ...] = ()


@frozen
class Plan:
    """Checked steps in order, the answering side, what runs the steps, and artifacts that are there before any.
    ``left_out`` says why steps that the recipe implies are not among them.
    """

    recipe: Recipe
    steps: tuple[PlannedStep, ...]
    answering: "Answering"
    executor: Chosen
    given: Mapping[tuple[str, str], Artifact] = field(factory=dict)
    left_out: str | None = None


@frozen
class Answering:
    """What answers: chosen backends, not yet made."""

    runtimes: Mapping[str, Chosen]
    agent: Chosen | None
    tools: Mapping[str, Chosen]
    knowledge: Chosen | None
    target: Target


@frozen
class Planner:
    """Resolves names and options, joins steps by kind; probes what can be probed.
    ``given`` are artifacts by (name, kind) that steps may take as if steps before them had made them.
    """

    recipe: Recipe
    registry: Registry
    given: Mapping[tuple[str, str], Artifact] = field(factory=dict)

    def plan(self) -> Plan:
        """The plan, without the implied steps where those do not fit.
        Raises ``RecipeError`` or ``PluginError`` for what else does not.
        """
        try:
            return self._plan()
        except RecipeError as error:
            asked = tuple(each for each in self.recipe.steps if not each.implied)
            if asked == self.recipe.steps:
                raise
            return evolve(evolve(self, recipe=evolve(self.recipe, steps=asked)).plan(), left_out=error.message)

    def _plan(self) -> Plan:
        executor = self.choose("executor", Section("run", self.recipe.run.executor))
        chosen = {step.name: self.choose(step.stage, step.section) for step in self.recipe.steps}
        answering = self._answering(chosen)
        steps: list[PlannedStep] = []
        for section in self.recipe.steps:
            steps.append(self._join(section, chosen[section.name], steps, answering))
        return Plan(self.recipe, tuple(steps), answering, executor, self.given)

    def where(self, key: str) -> str:
        """``file:line: key`` of a recipe key, of its table when the key itself is not set."""
        origins = self.recipe.origins
        if key.startswith("tools."):  # one without a table of its own
            origins = {"tools": origins.get("agent.tools", str(self.recipe.path)), **origins}
        return place(origins, key) or f"{self.recipe.path}: {key}"

    def choose(self, kind: str, section: Section) -> Chosen:
        """The backend of a section with its options and the services in its slots."""
        backend = self._get(kind, section.use, self.where(f"{section.path}.use"))
        slots = {slot.name: slot for slot in backend.spec.slots}
        words = {"tools"} if kind == "agent" else set()
        for word in section.words:
            if word not in slots and word not in words:
                raise unknown("key", word, {*slots, *words, "use"}, self.where(f"{section.path}.{word}"))
        filled = {name: self._slot(slot, section) for name, slot in slots.items()}
        self._misspelt(section, {backend.spec.name, *(each.backend.spec.name for each in filled.values())})
        options = self._options(backend, section)
        return Chosen(backend, options, filled | self._named(options, f"{section.path}.{backend.spec.name}"))

    def _named(self, options: Any, path: str) -> dict[str, Chosen]:
        """The services that options name."""
        found = {}
        for name, kind in opt.marked(options, "service"):
            where, use = self.where(f"{path}.{name}"), getattr(options, name)
            if use:
                backend = self._get(kind, self._of_quantizer(kind, where) if use == "auto" else use, where)
                found[name] = Chosen(backend, backend.spec.options())
        return found

    def _of_quantizer(self, kind: str, where: str) -> str:
        """The service of ``kind`` that the first quantizer names which names one."""
        known = sorted({each.spec.name for each in self.registry.all(kind)})
        for section in (each.section for each in self.recipe.steps if each.stage == "quantizer"):
            made = self.choose("quantizer", section)
            for name in (name for name, named in opt.marked(made.options, "names") if named == kind):
                use, key = str(getattr(made.options, name)), f"{section.path}.{made.backend.spec.name}.{name}"
                if use in known:
                    return use
                hint = f'{key} = one of {", ".join(known)}; or no "auto" here'
                raise RecipeError(f'"auto" is what {key} says, and {use!r} is no {kind}', where=where, hint=hint)
        raise RecipeError(f"no quantizer of this recipe names a {kind}", where=where, hint='a name instead of "auto"')

    def _misspelt(self, section: Section, read: set[str]) -> None:
        """Tables of other backends stand unread; one that is nearly the name of one in use is an error."""
        installed = {each.spec.name for each in self.registry.all()}
        for table in section.tables.keys() - installed - read:
            if difflib.get_close_matches(table, read, 1, 0.6):
                raise unknown("table", table, read, self.where(f"{section.path}.{table}"))

    def _options(self, backend: Backend, section: Section) -> Any:
        name = backend.spec.name
        flat = section.path.startswith("tools.")
        return opt.build(
            backend.spec.options,
            section.tables.get(name, {}),
            folder=self.recipe.folder,
            path=section.path if flat else f"{section.path}.{name}",
            where=self.where,
        )

    def _slot(self, slot: Slot, section: Section) -> Chosen:
        use = section.words.get(slot.name, slot.default)
        where = self.where(f"{section.path}.{slot.name}")
        if not isinstance(use, str):
            raise RecipeError(f"names no {slot.kind}", where=where, hint=f'{slot.name} = "…"')
        backend = self._get(slot.kind, use, where)
        return Chosen(backend, self._options(backend, section))

    def _get(self, kind: str, use: str, where: str) -> Backend:
        backend = self.registry.get(kind, use, where=where)
        if "network" in backend.spec.features and not self.recipe.run.network:
            raise RecipeError(
                f"{kind} {use!r} uses the network, and the recipe allows none",
                where=where,
                hint="--set run.network=true",
                plugin=backend.label,
            )
        return backend

    def _answering(self, chosen: Mapping[str, Chosen]) -> Answering:
        indexer = next((chosen[s.name] for s in self.recipe.steps if s.stage == "indexer"), None)
        agent, tools = None, {}
        if self.recipe.agent:
            agent = self.choose("agent", self.recipe.agent)
            named = self.recipe.agent.words.get("tools", [])
            if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
                raise RecipeError("is no list of names", where=self.where("agent.tools"))
            for name in named:
                section = self.recipe.tools.get(name) or Section(f"tools.{name}", name)
                tools[name] = self.choose("tool", section)
        for name in self.recipe.tools:
            if name not in tools:
                raise RecipeError("no agent uses this tool", where=self.where(f"tools.{name}"), hint="agent.tools")
        return Answering(self._runtimes(chosen), agent, tools, indexer, self.recipe.target)

    def _runtimes(self, chosen: Mapping[str, Chosen]) -> dict[str, Chosen]:
        """The runtime for each kind of model in the plan: the recipe's where it fits, else the only one."""
        made = [*(k for each in chosen.values() for k in each.backend.spec.produces), *(k for _, k in self.given)]
        kinds = {kind for kind in made if kind.startswith("model/")}
        preferred = self.choose("runtime", self.recipe.runtime) if self.recipe.runtime else None
        found: dict[str, Chosen] = {}
        for kind in kinds:
            if preferred and any(each.accepts(kind) for each in preferred.backend.spec.consumes):
                found[kind] = preferred
                continue
            fitting = self._opening(kind)
            if len(fitting) == 1:
                section = self.recipe.runtime or Section("runtime", fitting[0].spec.name)
                found[kind] = Chosen(fitting[0], self._options(fitting[0], section))
        return found

    def _opening(self, kind: str) -> list[Backend]:
        runtimes = self.registry.all("runtime")
        return [each for each in runtimes if any(taken.accepts(kind) for taken in each.spec.consumes)]

    def _join(
        self, section: StepSection, chosen: Chosen, before: list[PlannedStep], answering: Answering
    ) -> PlannedStep:
        inputs = tuple(self._input(section, each, before) for each in chosen.backend.spec.consumes)
        uses: tuple[Chosen, ...] = ()
        if section.stage in ("evaluator", "packager"):
            kinds = {kind for group in inputs if group for _, kind in group}
            runtimes = [answering.runtimes[kind] for kind in sorted(kinds) if kind in answering.runtimes]
            choices = (answering.agent, answering.knowledge, *answering.tools.values(), *runtimes)
            uses = tuple(each for each in choices if each is not None)
            self._runnable(section, inputs, answering)
        return PlannedStep(section.name, section.stage, chosen, inputs, chosen.backend.spec.produces, uses)

    def _input(
        self, section: StepSection, wanted: Input, before: list[PlannedStep]
    ) -> tuple[tuple[str, str], ...] | None:
        there = [*self.given, *((step.name, kind) for step in before for kind in step.produces)]
        made = [(name, kind) for name, kind in there if wanted.accepts(kind)]
        if not made:
            if wanted.optional:
                return None
            have = ", ".join(sorted({kind for _, kind in there})) or "nothing"
            raise RecipeError(
                f"step {section.name!r} needs {wanted.kind}; the steps before it make {have}",
                where=self.where(section.section.path),
            )
        if wanted.take == "all":
            return tuple(made)
        return (made[0] if wanted.take == "first" else made[-1],)

    def _runnable(self, section: StepSection, inputs: tuple[Any, ...], answering: Answering) -> None:
        for _, kind in [each for group in inputs if group for each in group]:
            if not kind.startswith("model/") or kind in answering.runtimes:
                continue
            names = " or ".join(f'"{each.spec.name}"' for each in self._opening(kind))
            if names:
                raise RecipeError(
                    f"several runtimes open {kind}", where=self.where("runtime"), hint=f"[runtime] use = {names}"
                )
            if section.stage == "evaluator":
                raise RecipeError(
                    f"no installed runtime opens {kind}",
                    where=self.where(section.section.path),
                    hint="inhouse plugins  (lists the runtimes and the kinds they open)",
                )

    def probe(self, plan: Plan, done: Collection[str]) -> None:
        """Asks the backends of steps that are not ``done`` whether they can run here; imports none when all are.

        Raises ``ResourceError`` with their reason, ``RecipeError`` for a context that the base model has not.
        """
        if len(done) == len(plan.steps):
            return
        taken = {name for step in plan.steps for group in step.inputs if group for name, _ in group}
        for step, section in zip(plan.steps, plan.recipe.steps, strict=True):
            opened = [each for each in step.uses if each.backend.spec.kind in ("runtime", "indexer")]
            needed = [] if step.name in done else [step.chosen, *opened]
            for each in [part for chosen in needed for part in (chosen, *chosen.slots.values())]:
                reason = each.ask("probe")
                if reason:
                    where = self.where(f"{section.section.path}.use")
                    raise ResourceError(str(reason), where=where, plugin=each.backend.label)
            context = _said(step.chosen, "context") if step.stage == "source" and step.name in taken else 0
            if 0 < context < self.recipe.target.context:
                raise RecipeError(
                    f"context {self.recipe.target.context} is longer than the model's {context}",
                    where=self.where("target.context"),
                    hint=f"--set target.context={context}",
                )


def key_of(step: PlannedStep, inputs: Inputs, recipe: Recipe) -> str:
    """The step's fingerprint: stage, backend, version, options, inputs by digest, seed, and for stages that
    answer or say so the target and the answering side."""
    parts: dict[str, Any] = {
        "stage": step.stage,
        "chosen": step.chosen.counting(),
        "produces": list(step.produces),
        "inputs": [_digests(each) for each in inputs],
        "seed": recipe.seed,
    }
    if step.uses:
        parts["uses"] = [each.counting() for each in step.uses]
    if step.uses or step.chosen.backend.spec.target:
        parts["target"] = [recipe.target.memory, recipe.target.context, recipe.target.speed, recipe.target.disk]
    return fingerprint(parts)


def _digests(value: Artifact | list[Artifact] | None) -> Any:
    if isinstance(value, list):
        return [f"{each.step}:{each.kind}:{each.digest}" for each in value]
    return f"{value.kind}:{value.digest}" if value else None


def cached(plan: Plan, store: Store) -> dict[str, Manifest]:
    """Steps whose result is in the store, as far as that can be known without running any."""
    found: dict[str, Manifest] = {}
    products = dict(plan.given)
    for step in plan.steps:
        inputs = gather(step, products)
        if inputs is None:
            continue
        manifest = store.find(key_of(step, inputs, plan.recipe))
        if manifest:
            found[step.name] = manifest
            products |= bind(step, store.artifacts(manifest))
    return found


def gather(step: PlannedStep, products: Mapping[tuple[str, str], Artifact]) -> Inputs | None:
    """The step's inputs from what was made so far; None when one is not there yet."""
    gathered: Inputs = []
    for wanted, names in zip(step.chosen.backend.spec.consumes, step.inputs, strict=True):
        if names is None:
            gathered.append(None)
            continue
        if any(name not in products for name in names):
            return None
        made = [products[name] for name in names]
        gathered.append(made if wanted.take == "all" else made[0])
    return gathered


def bind(step: PlannedStep, made: tuple[Artifact, ...]) -> dict[tuple[str, str], Artifact]:
    """Products by (step, kind), named after the step of this plan."""
    return {(step.name, each.kind): evolve(each, step=step.name, stage=step.stage) for each in made}


_KEPT = {"source": 1.0, "trainer": 1.1, "quantizer": 0.7, "indexer": 4.0, "evaluator": 0.0, "packager": 2.0}
"""Bytes a step leaves for each byte of what it takes (a bundle lies in the store and beside it)."""
_SCRATCH = {"source": 1.0, "trainer": 6.0, "quantizer": 1.1, "indexer": 1.0, "evaluator": 0.0, "packager": 0.0}
"""Bytes it needs while it works: a trainer's checkpoint has masters and two moments, a quantizer a 16-bit copy."""


def disk_needed(plan: Plan, done: Mapping[str, Manifest]) -> int:
    """Bytes that the steps which are not cached leave, and the most that one needs while it works.
    Sources say how much they bring (``describe()["bytes"]``).
    """
    made: dict[str, float] = {name: tree_bytes(each.path) for (name, _), each in plan.given.items()}
    kept = scratch = 0.0
    for step in plan.steps:
        if step.name in done:
            made[step.name] = sum(f.size for p in done[step.name].products for f in p.files)
            continue
        taken = sum(made[name] for name in {name for group in step.inputs if group for name, _ in group})
        if step.stage == "source":
            taken = _said(step.chosen, "bytes")
        made[step.name] = taken * _KEPT[step.stage]
        kept += made[step.name]
        scratch = max(scratch, taken * _SCRATCH[step.stage])
    return int(kept + scratch)


def _said(chosen: Chosen, fact: str) -> int:
    """What a source knows of its product before any work; 0 when it does not say."""
    return int((chosen.ask("describe") or {}).get(fact, 0))
