"""Discovery, isolation and the registry: a broken plugin is reported and left out, the rest goes on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
import structlog
from attrs import asdict, fields_dict, frozen, has

from inhouse import hookspecs
from inhouse.errors import PluginError, RecipeError
from inhouse.events import Event
from inhouse.known import FIRST_PARTY
from inhouse.specs import API_VERSION, SPEC_TYPES, Spec, StageSpec

GROUP = "inhouse"
log = structlog.get_logger(__name__)


@frozen
class Plugin:
    """An entry point, and the distribution that it came with."""

    plugin: str
    distribution: str
    version: str


@frozen
class Failure(Plugin):
    """A plugin that is left out, or one of its declarations, and why."""

    reason: str


@frozen
class Backend(Plugin):
    """A spec, and the plugin that declares it."""

    spec: Spec

    @property
    def label(self) -> str:
        """For messages: ``inhouse-gguf 0.1.0 (gguf)``."""
        return f"{self.distribution} {self.version} ({self.spec.name})"

    def load(self) -> type[Any]:
        """Imports the class behind the spec. Raises ``PluginError`` with the reason and what to type."""
        module, _, name = self.spec.factory.partition(":")
        try:
            made: type[Any] = getattr(import_module(module), name)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.spec.factory} does not import: {type(error).__name__}: {error}",
                plugin=self.label,
                hint=f"pip install --force-reinstall {self.distribution}",
            ) from error
        return made


class Registry:
    """All backends that installed plugins declare, by kind and name."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.failures: list[Failure] = []
        self._plugins: dict[int, Plugin] = {}  # by id of their module
        found = entry_points(group=GROUP) if points is None else points
        for point in sorted(found, key=lambda each: (each.dist.name if each.dist else "", each.name)):
            self._load(point)
        self._backends = [each for kind in SPEC_TYPES for each in self._collect(kind)]

    def all(self, kind: str | None = None) -> list[Backend]:
        """Every backend, or those of one kind, by name."""
        found = [each for each in self._backends if kind in (None, each.spec.kind)]
        return sorted(found, key=lambda each: (each.spec.kind, each.spec.name, each.distribution))

    def get(self, kind: str, use: str, *, where: str | None = None) -> Backend:
        """The backend that ``use = "name"`` or ``use = "distribution:name"`` means.

        Raises ``RecipeError``: unknown (with what is installed and what to install), or ambiguous.
        """
        distribution, _, name = use.rpartition(":")
        named = [each for each in self.all(kind) if each.spec.name == name]
        fitting = [each for each in named if distribution in ("", each.distribution)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            both = ", ".join(f'"{each.distribution}:{name}"' for each in fitting)
            raise RecipeError(f"{kind} {name!r} comes from several plugins", where=where, hint=f"use = one of {both}")
        names = sorted({each.spec.name for each in self.all(kind)})
        near = difflib.get_close_matches(name, names, 1, 0.6)
        package = FIRST_PARTY.get((kind, name))
        suspects = {package, distribution, name}
        broken = [each for each in self.failures if suspects & {each.distribution, each.plugin}]
        if broken:
            hint = f"inhouse plugins  ({broken[0].distribution} is installed but failed: {broken[0].reason})"
        elif near:
            hint = f'use = "{near[0]}"'
        else:
            hint = f"pip install {package or f'the plugin that provides {name!r}'}"
        raise RecipeError(
            f"no {kind} named {use!r} is installed (installed: {', '.join(names) or 'none'})", where=where, hint=hint
        )

    def event_types(self) -> list[type[Event]]:
        """Event classes that plugins add."""
        found = []
        for plugin, kind in self._ask("inhouse_event_types", {}):
            if not isinstance(kind, type) or not issubclass(kind, Event):
                self._fail(plugin, f"inhouse_event_types yields {kind!r}, no Event class")
            elif "type" in fields_dict(kind):
                self._fail(plugin, f"event {kind.__name__} has a field 'type', which journals use for the class")
            else:
                found.append(kind)
        return found

    def call(self, hook: str, **arguments: Any) -> None:
        """Tells every plugin; one that raises is reported and the rest goes on."""
        for plugin, implementation in self._implementations(hook, arguments):
            with self._isolated(plugin, hook):
                implementation()

    @contextmanager
    def wrapped(self, hook: str, **arguments: Any) -> Iterator[None]:
        """Runs the block inside every plugin's wrapper (a generator that yields once).

        A wrapper cannot change what the block raises; one that fails itself is reported.
        """
        begun = []
        for plugin, implementation in self._implementations(hook, arguments):
            with self._isolated(plugin, hook):
                generator = implementation()
                if next(generator, self) is self:
                    raise PluginError("ended before its yield")
                begun.append((plugin, generator))
        try:
            yield
        finally:
            for plugin, generator in reversed(begun):
                with self._isolated(plugin, hook):
                    if next(generator, self) is not self:
                        raise PluginError("yields more than once")

    def _load(self, point: EntryPoint) -> None:
        made = Plugin(point.name, point.dist.name if point.dist else "?", point.dist.version if point.dist else "?")
        name = f"{made.distribution}:{made.plugin}"
        try:
            module = point.load()
            self.manager.register(module, name=name)
            marked = (each for each in dir(module) if self.manager.parse_hookimpl_opts(module, each) is not None)
            unknown = [each for each in marked if not hasattr(hookspecs, each)]
            if unknown:
                raise PluginError(f"implements unknown hooks {', '.join(unknown)}; it needs another version of inhouse")
        except (Exception, SystemExit) as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            self._fail(made, str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}")
        else:
            self._plugins[id(module)] = made

    def _ask(self, hook: str, arguments: dict[str, Any]) -> list[tuple[Plugin, Any]]:
        results: list[tuple[Plugin, Any]] = []
        for plugin, implementation in self._implementations(hook, arguments):
            with self._isolated(plugin, hook):
                results += [(plugin, each) for each in implementation() or ()]
        return results

    def _implementations(self, hook: str, arguments: dict[str, Any]) -> list[tuple[Plugin, Callable[[], Any]]]:
        return [
            (
                self._plugins[id(each.plugin)],
                partial(each.function, **{name: arguments[name] for name in each.argnames}),
            )
            for each in getattr(self.manager.hook, hook).get_hookimpls()
        ]

    @contextmanager
    def _isolated(self, plugin: Plugin, hook: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._fail(plugin, f"{hook}: {type(error).__name__}: {error}")

    def _collect(self, kind: type[Spec]) -> list[Backend]:
        found: list[Backend] = []
        for plugin, spec in self._ask(f"inhouse_{kind.kind}s", {}):
            wrong = _wrong(spec, kind, [each.spec.name for each in found if each.distribution == plugin.distribution])
            if wrong:
                self._fail(plugin, wrong)
            else:
                found.append(Backend(plugin.plugin, plugin.distribution, plugin.version, spec))
        return found

    def _fail(self, plugin: Plugin, reason: str) -> None:
        failure = Failure(plugin.plugin, plugin.distribution, plugin.version, reason)
        log.warning("plugin left out", **asdict(failure))
        self.failures.append(failure)


def _wrong(spec: Any, kind: type[Spec], names: Collection[str]) -> str | None:
    if not isinstance(spec, kind):
        return f"inhouse_{kind.kind}s yields {type(spec).__name__}, not {kind.__name__}"
    if spec.api != API_VERSION:
        return f"{kind.kind} {spec.name!r} is for plugin interface {spec.api}, this is {API_VERSION}"
    if not has(spec.options):
        return f"{kind.kind} {spec.name!r}: options is no attrs class"
    if spec.name in names:
        return f"declares {kind.kind} {spec.name!r} twice"
    if isinstance(spec, StageSpec) and not spec.produces:
        return f"{kind.kind} {spec.name!r} produces nothing"
    return None
