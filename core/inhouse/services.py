"""The answering side, live: engines, knowledge, tools and agent from chosen backends."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from inhouse import options as opt
from inhouse.errors import PluginError, RecipeError
from inhouse.plan import Answering, Chosen
from inhouse.protocols import Agent, Engine, KnowledgeBase, ToolContext
from inhouse.values import Artifact, Json


class LiveServices:
    """Opens what :class:`~inhouse.plan.Answering` names; ``close`` closes what it opened."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._stack = ExitStack()
        self._knowledge: dict[str, KnowledgeBase] = {}
        self._slots: dict[str, Any] = {}

    def runtime_name(self, kind: str) -> str:
        """Which runtime opens a model of ``kind``."""
        return self._runtime(kind).backend.spec.name

    def engine(self, model: Artifact, *, context: int | None = None) -> Engine:
        """Opens a model; the caller closes it. Raises ``PluginError`` when the engine breaks its Protocol."""
        target, chosen = self._answering.target, self._runtime(model.kind)
        opened: Engine = chosen.make().open(model.path, context=context or target.context, threads=target.threads)
        batch = getattr(opened, "batch", None)
        if not isinstance(batch, int) or batch < 1:
            opened.close()
            raise PluginError(
                "the engine does not say how many requests it decodes together",
                where=chosen.backend.label,
                hint="its class needs batch, an int of 1 or more; see docs/architecture.md",
            )
        return opened

    def agent(self, knowledge: Artifact | None) -> Agent:
        """The agent with its tools, over ``knowledge`` if there is one."""
        if self._answering.agent is None:
            raise RecipeError("the recipe has no agent", hint='[agent] use = "react"')
        base = self.knowledge(knowledge) if knowledge else None
        tools = {name: each.make(ToolContext(name, base)) for name, each in self._answering.tools.items()}
        for tool in tools.values():
            if hasattr(tool, "close"):
                self._stack.callback(tool.close)
        made: Agent = self._answering.agent.make(tools)
        return made

    def knowledge(self, artifact: Artifact) -> KnowledgeBase:
        """The knowledge base in an artifact, opened once."""
        indexer = self._answering.knowledge
        if indexer is None:
            raise RecipeError("the recipe has no knowledge base", hint='[knowledge] use = "sqlite"')
        key = str(artifact.path)
        if key not in self._knowledge:
            opened = indexer.make().open(artifact.path, {name: self.slot(each) for name, each in indexer.slots.items()})
            self._stack.callback(opened.close)
            self._knowledge[key] = opened
        return self._knowledge[key]

    def slot(self, chosen: Chosen) -> Any:
        """The live service of a slot. An embedder is made once; a vector store once for each base."""
        if chosen.backend.spec.kind != "embedder":
            return chosen.make()
        label = chosen.backend.label
        if label not in self._slots:
            self._slots[label] = chosen.make()
        return self._slots[label]

    def settings(self) -> Mapping[str, Json]:
        """What a bundle keeps of the answering side."""
        answering = self._answering
        return {
            "target": {"memory": answering.target.memory, "context": answering.target.context},
            "runtimes": {kind: _settings(each) for kind, each in sorted(answering.runtimes.items())},
            "agent": _settings(answering.agent) if answering.agent else None,
            "tools": {name: _settings(each) for name, each in answering.tools.items()},
            "knowledge": _settings(answering.knowledge) if answering.knowledge else None,
        }

    def close(self) -> None:
        """Closes knowledge bases and tools."""
        self._stack.close()
        self._knowledge.clear()

    def _runtime(self, kind: str) -> Chosen:
        chosen = self._answering.runtimes.get(kind)
        if chosen is None:
            raise RecipeError(f"no installed runtime opens {kind}", hint="inhouse plugins")
        return chosen


def _settings(chosen: Chosen) -> dict[str, Json]:
    """A choice as plain data; options that are paths stand apart, so that a bundle can bring the files."""
    options = opt.plain(chosen.options)
    files = {name: options.pop(name) for name in opt.paths(chosen.options)}
    return {
        "use": f"{chosen.backend.distribution}:{chosen.backend.spec.name}",
        "version": chosen.backend.version,
        "options": options,
        "files": files,
        "slots": {name: _settings(each) for name, each in chosen.slots.items()},
    }
