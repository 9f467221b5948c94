"""Discovery, isolation and the registry: a broken plugin is reported and left out, the rest goes on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
import structlog
from attrs import frozen

from inhouse import hookspecs
from inhouse.errors import PluginError, RecipeError
from inhouse.events import Event
from inhouse.known import FIRST_PARTY
from inhouse.options import is_options
from inhouse.specs import API_VERSION, SPEC_TYPES, Spec

GROUP = "inhouse"
log = structlog.get_logger(__name__)


@frozen
class Backend:
    """A spec, and the distribution that made it."""

    spec: Spec
    plugin: str
    distribution: str
    version: str

    @property
    def label(self) -> str:
        """For messages: ``inhouse-gguf 0.1.0 (gguf)``."""
        return f"{self.distribution} {self.version} ({self.spec.name})"

    def load(self) -> type[Any]:
        """Imports the class behind the spec. Raises ``PluginError`` with the reason and what to type."""
        module, _, name = self.spec.factory.partition(":")
        try:
            made: type[Any] = getattr(import_module(module), name)
        except Exception as error:
            raise PluginError(
                f"{self.spec.factory} does not import: {type(error).__name__}: {error}",
                plugin=self.label,
                hint=f"pip install --force-reinstall {self.distribution}",
            ) from error
        return made


@frozen
class Failure:
    """A plugin that is left out, or one of its declarations, and why."""

    plugin: str
    distribution: str
    version: str
    reason: str


@frozen
class Loaded:
    """A plugin module that was imported."""

    name: str
    distribution: str
    version: str
    module: Any


class Registry:
    """All backends that installed plugins declare, by kind and name."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.failures: list[Failure] = []
        self.loaded: list[Loaded] = []
        found = entry_points(group=GROUP) if points is None else points
        for point in sorted(found, key=lambda each: (each.dist.name if each.dist else "", each.name)):
            self._load(point)
        self._backends = [each for kind in SPEC_TYPES for each in self._collect(kind)]

    def all(self, kind: str | None = None) -> list[Backend]:
        """Every backend, or those of one kind, by name."""
        return sorted(
            (each for each in self._backends if kind in (None, each.spec.kind)),
            key=lambda each: (each.spec.kind, each.spec.name, each.distribution),
        )

    def get(self, kind: str, use: str, *, where: str | None = None) -> Backend:
        """The backend that ``use = "name"`` or ``use = "distribution:name"`` means.

        Raises ``RecipeError``: unknown (with what is installed and what to install), or ambiguous.
        """
        distribution, _, name = use.rpartition(":")
        fitting = [
            each for each in self.all(kind) if each.spec.name == name and distribution in ("", each.distribution)
        ]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            both = ", ".join(f'"{each.distribution}:{name}"' for each in fitting)
            raise RecipeError(f"{kind} {name!r} comes from several plugins", where=where, hint=f"use = one of {both}")
        names = sorted({each.spec.name for each in self.all(kind)})
        near = difflib.get_close_matches(name, names, 1, 0.6)
        package = FIRST_PARTY.get((kind, name))
        broken = [each for each in self.failures if each.distribution == (package or distribution)]
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
        return [each for _, each in self._ask("inhouse_event_types", {})]

    def call(self, hook: str, **arguments: Any) -> None:
        """Tells every plugin; one that raises is reported and the rest goes on."""
        for _ in self._ask(hook, arguments):
            pass

    @contextmanager
    def wrapped(self, hook: str, **arguments: Any) -> Iterator[None]:
        """Runs the block inside every plugin's wrapper (a generator that yields once).

        A wrapper cannot change what the block raises; one that fails itself is reported.
        """
        begun = []
        for plugin, generator in self._start(hook, arguments):
            if self._advance(plugin, hook, generator, last=False):
                begun.append((plugin, generator))
        try:
            yield
        finally:
            for plugin, generator in reversed(begun):
                self._advance(plugin, hook, generator, last=True)

    def _start(self, hook: str, arguments: dict[str, Any]) -> list[tuple[Loaded, Any]]:
        started = []
        for plugin, implementation in self._implementations(hook):
            started.append((plugin, implementation.function(**{n: arguments[n] for n in implementation.argnames})))
        return started

    def _advance(self, plugin: Loaded, hook: str, generator: Any, *, last: bool) -> bool:
        try:
            next(generator)
        except StopIteration:
            if last:
                return True
            reason = f"{hook}: ended before its yield"
        except Exception as error:
            reason = f"{hook}: {type(error).__name__}: {error}"
        else:
            if not last:
                return True
            reason = f"{hook}: yields more than once"
        self._fail(plugin.name, plugin.distribution, plugin.version, reason)
        return False

    def _load(self, point: EntryPoint) -> None:
        distribution = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        try:
            module = point.load()
            self.manager.register(module, name=f"{distribution}:{point.name}")
            unknown = [
                name
                for name in dir(module)
                if self.manager.parse_hookimpl_opts(module, name) is not None and not hasattr(hookspecs, name)
            ]
            if unknown:
                self.manager.unregister(module)
                raise PluginError(f"implements unknown hooks {', '.join(unknown)}; it needs another version of inhouse")
        except Exception as error:
            message = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            self._fail(point.name, distribution, version, message)
            return
        self.loaded.append(Loaded(point.name, distribution, version, module))

    def _ask(self, hook: str, arguments: dict[str, Any]) -> list[tuple[Loaded, Any]]:
        results: list[tuple[Loaded, Any]] = []
        for plugin, implementation in self._implementations(hook):
            given = {name: arguments[name] for name in implementation.argnames}
            try:
                answer = implementation.function(**given)
                results += [(plugin, each) for each in (answer or ())]
            except Exception as error:
                reason = f"{hook}: {type(error).__name__}: {error}"
                self._fail(plugin.name, plugin.distribution, plugin.version, reason)
        return results

    def _implementations(self, hook: str) -> list[tuple[Loaded, Any]]:
        by_module = {id(each.module): each for each in self.loaded}
        return [(by_module[id(each.plugin)], each) for each in getattr(self.manager.hook, hook).get_hookimpls()]

    def _collect(self, kind: type[Spec]) -> list[Backend]:
        found: list[Backend] = []
        for plugin, spec in self._ask(f"inhouse_{kind.kind}s", {}):
            wrong = _wrong(spec, kind)
            if not wrong and any(
                each.spec.name == spec.name and each.distribution == plugin.distribution for each in found
            ):
                wrong = f"declares {kind.kind} {spec.name!r} twice"
            if wrong:
                self._fail(plugin.name, plugin.distribution, plugin.version, wrong)
            else:
                found.append(Backend(spec, plugin.name, plugin.distribution, plugin.version))
        return found

    def _fail(self, name: str, distribution: str, version: str, reason: str) -> None:
        log.warning("plugin left out", plugin=name, distribution=distribution, version=version, reason=reason)
        self.failures.append(Failure(name, distribution, version, reason))


def _wrong(spec: Any, kind: type[Spec]) -> str | None:
    if not isinstance(spec, kind):
        return f"inhouse_{kind.kind}s yields {type(spec).__name__}, not {kind.__name__}"
    if spec.api != API_VERSION:
        return f"{kind.kind} {spec.name!r} is for plugin interface {spec.api}, this is {API_VERSION}"
    if not is_options(spec.options):
        return f"{kind.kind} {spec.name!r}: options is no attrs class"
    if spec.is_stage and not spec.produces:
        return f"{kind.kind} {spec.name!r} produces nothing"
    return None
