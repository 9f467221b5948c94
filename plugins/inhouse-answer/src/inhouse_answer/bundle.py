"""A bundle: the folder that gets deployed, opened for answering. Nothing outside of it is read.

bundle.json    which model and knowledge base, and the answering side (see ``Services.settings``)
model/ knowledge/ files/ …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from attrs import field, frozen

from inhouse import codec
from inhouse import options as opt
from inhouse.errors import ArtifactError, DataError, RecipeError
from inhouse.plan import Answering, Chosen
from inhouse.plugins import Registry
from inhouse.protocols import Agent, Engine
from inhouse.services import LiveServices
from inhouse.values import Answer, Artifact, Message, Target

from .dialogues import answer

SETTINGS = "bundle.json"
FORMAT = 1


@frozen
class BundleSettings:
    """What ``bundle.json`` holds. ``model`` is {kind, folder}; ``knowledge`` a folder; the rest as
    ``Services.settings`` gives it, with files relative to the bundle."""

    format: int
    name: str
    model: Mapping[str, str]
    target: Mapping[str, int]
    runtimes: Mapping[str, Any]
    agent: Mapping[str, Any] | None
    tools: Mapping[str, Any]
    knowledge: Mapping[str, Any] | None
    knowledge_folder: str | None = None
    example: str | None = field(default=None)


class Bundle:
    """An open bundle; a context manager.

    Raises ``DataError`` when the folder is no bundle, ``RecipeError`` when a plugin it needs is missing.
    """

    def __init__(self, folder: str | Path, registry: Registry) -> None:
        self.folder = Path(folder).resolve()
        path = self.folder / SETTINGS
        if not path.is_file():
            raise DataError("is no bundle (it has no bundle.json)", where=str(folder), hint="inhouse run RECIPE")
        self.settings = codec.loads(path.read_bytes(), BundleSettings, where=str(path))
        if self.settings.format != FORMAT:
            raise ArtifactError(f"has format {self.settings.format}, this inhouse reads {FORMAT}", where=str(path))
        self._registry = registry
        try:
            self._services = LiveServices(self._answering())
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArtifactError(f"is damaged: {type(error).__name__}: {error}", where=str(path)) from error
        self._engine: Engine | None = None
        self._agent: Agent | None = None

    @property
    def engine(self) -> Engine:
        """The model, opened on first use."""
        if self._engine is None:
            model = self.settings.model
            self._engine = self._services.engine(Artifact(model["kind"], self._inside(model["folder"]), ""))
        return self._engine

    @property
    def agent(self) -> Agent:
        """The agent, with its tools over the bundle's knowledge base."""
        if self._agent is None:
            folder = self.settings.knowledge_folder
            knowledge = Artifact("knowledge", self._inside(folder), "") if folder else None
            self._agent = self._services.agent(knowledge)
        return self._agent

    def ask(self, question: str, *, history: Sequence[Message] = ()) -> Answer:
        """One answer."""
        return answer(self.agent, self.engine, question, history=history)

    def close(self) -> None:
        """Ends the engine and closes the knowledge base."""
        if self._engine is not None:
            self._engine.close()
        self._services.close()

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inside(self, relative: str) -> Path:
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder):
            raise ArtifactError(f"{relative!r} lies outside the bundle", where=str(self.folder / SETTINGS))
        return path

    def _choose(self, kind: str, data: Mapping[str, Any]) -> Chosen:
        where = str(self.folder / SETTINGS)
        backend = self._registry.get(kind, str(data["use"]), where=where)
        files = {name: str(self._inside(str(path))) for name, path in data["files"].items()}
        options = opt.build(
            backend.spec.options,
            {**data["options"], **files},
            folder=self.folder,
            path=backend.spec.name,
            where=lambda key: f"{where}: {key}",
        )
        for name in opt.paths(options):
            self._inside(str(getattr(options, name)))
        kinds = {slot.name: slot.kind for slot in backend.spec.slots}
        slots = {name: self._choose(kinds[name], each) for name, each in data["slots"].items() if name in kinds}
        return Chosen(backend, options, slots)

    def _answering(self) -> Answering:
        settings = self.settings
        kind = settings.model["kind"]
        if kind not in settings.runtimes:
            raise RecipeError(
                f"the bundle has no runtime for its {kind}",
                where=str(self.folder / SETTINGS),
                hint="install a runtime that opens it, then: inhouse run RECIPE",
            )
        return Answering(
            runtimes={kind: self._choose("runtime", settings.runtimes[kind])},
            agent=self._choose("agent", settings.agent) if settings.agent else None,
            tools={name: self._choose("tool", each) for name, each in settings.tools.items()},
            knowledge=self._choose("indexer", settings.knowledge) if settings.knowledge else None,
            target=Target(**settings.target),
        )
