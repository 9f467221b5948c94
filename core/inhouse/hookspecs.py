"""The hooks, one for each kind of backend and a few for the kernel. pluggy calls every plugin.

A hook declares or listens; it never decides. Which backend does a job is the recipe's word.
Every hook that collects is called once, when a command first needs that kind, in any order;
a plugin whose hook raises is reported (``inhouse plugins``) and left out.
"""

# pluggy takes the names of the arguments from here; the bodies are empty on purpose.

from __future__ import annotations

from collections.abc import Generator, Iterable

import pluggy

from inhouse import specs
from inhouse.bus import Bus
from inhouse.events import Event
from inhouse.protocols import Step

PROJECT = "inhouse"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a hook implementation in a plugin module."""


# --- stages: what turns artifacts into an artifact ---------------------------------------------------


@hookspec
def inhouse_sources() -> Iterable[specs.SourceSpec]:  # type: ignore[empty-body]
    """Yield one spec for each source of models, training data or documents.

    >>> @hookimpl
    ... def inhouse_sources():
    ...     yield SourceSpec(name="wiki", summary="Pages of our wiki", factory="acme.wiki:Wiki",
    ...                      produces="text/corpus")
    >>> next(inhouse_sources()).produces
    ('text/corpus',)
    """


@hookspec
def inhouse_trainers() -> Iterable[specs.TrainerSpec]:  # type: ignore[empty-body]
    """Yield one spec for each trainer.

    >>> @hookimpl
    ... def inhouse_trainers():
    ...     yield TrainerSpec(name="galore", summary="Low-rank gradients", factory="acme.galore:Trainer",
    ...                       consumes=("model/hf", "text/chat"), produces="model/hf")
    >>> [each.kind for each in next(inhouse_trainers()).consumes]
    ['model/hf', 'text/chat']
    """


@hookspec
def inhouse_quantizers() -> Iterable[specs.QuantizerSpec]:  # type: ignore[empty-body]
    """Yield one spec for each quantizer; ``produces`` names the format, a runtime ``consumes`` it.

    >>> @hookimpl
    ... def inhouse_quantizers():
    ...     yield QuantizerSpec(name="acme", summary="ACME low-bit weights", factory="acme.q:Quantizer",
    ...                         consumes="model/hf", produces="model/acme")
    >>> next(inhouse_quantizers()).name
    'acme'
    """


@hookspec
def inhouse_indexers() -> Iterable[specs.IndexerSpec]:  # type: ignore[empty-body]
    """Yield one spec for each kind of knowledge base; ``slots`` name the services it is given.

    >>> from inhouse.specs import Slot
    >>> @hookimpl
    ... def inhouse_indexers():
    ...     yield IndexerSpec(name="duck", summary="DuckDB", factory="acme.duck:Indexer",
    ...                       consumes="text/corpus", produces="knowledge",
    ...                       slots=[Slot("embedder", "embedder", default="minilm")])
    >>> next(inhouse_indexers()).slots[0].default
    'minilm'
    """


@hookspec
def inhouse_evaluators() -> Iterable[specs.EvaluatorSpec]:  # type: ignore[empty-body]
    """Yield one spec for each evaluator; it writes ``report.json``.

    >>> from inhouse.specs import Input
    >>> @hookimpl
    ... def inhouse_evaluators():
    ...     yield EvaluatorSpec(name="toxicity", summary="Toxic answers", factory="acme.tox:Evaluator",
    ...                         consumes=Input("model/*", take="all"), produces="report")
    >>> next(inhouse_evaluators()).consumes[0].accepts("model/gguf")
    True
    """


@hookspec
def inhouse_packagers() -> Iterable[specs.PackagerSpec]:  # type: ignore[empty-body]
    """Yield one spec for each way to put together what gets deployed.

    >>> @hookimpl
    ... def inhouse_packagers():
    ...     yield PackagerSpec(name="deb", summary="A Debian package", factory="acme.deb:Packager",
    ...                        consumes=("model/*", "knowledge"), produces="bundle")
    >>> next(inhouse_packagers()).produces
    ('bundle',)
    """


# --- services: live objects used while answering -----------------------------------------------------


@hookspec
def inhouse_runtimes() -> Iterable[specs.RuntimeSpec]:  # type: ignore[empty-body]
    """Yield one spec for each engine that runs models; ``consumes`` are the kinds it opens.

    >>> @hookimpl
    ... def inhouse_runtimes():
    ...     yield RuntimeSpec(name="onnx", summary="ONNX Runtime", factory="acme.ort:Runtime",
    ...                       consumes="model/onnx", features=["stream"])
    >>> 'stream' in next(inhouse_runtimes()).features
    True
    """


@hookspec
def inhouse_embedders() -> Iterable[specs.EmbedderSpec]:  # type: ignore[empty-body]
    """Yield one spec for each text embedder.

    >>> @hookimpl
    ... def inhouse_embedders():
    ...     yield EmbedderSpec(name="e5", summary="E5 small", factory="acme.e5:Embedder")
    >>> next(inhouse_embedders()).name
    'e5'
    """


@hookspec
def inhouse_vector_stores() -> Iterable[specs.VectorStoreSpec]:  # type: ignore[empty-body]
    """Yield one spec for each vector index.

    >>> @hookimpl
    ... def inhouse_vector_stores():
    ...     yield VectorStoreSpec(name="faiss", summary="FAISS", factory="acme.faiss:Store")
    >>> next(inhouse_vector_stores()).kind
    'vector_store'
    """


@hookspec
def inhouse_roundings() -> Iterable[specs.RoundingSpec]:  # type: ignore[empty-body]
    """Yield one spec for each number format that a training can hold to (``quantization_aware``).

    >>> @hookimpl
    ... def inhouse_roundings():
    ...     yield RoundingSpec(name="acme4", summary="ACME's 4 bits", factory="acme.rounding:Acme4")
    >>> next(inhouse_roundings()).kind
    'rounding'
    """


@hookspec
def inhouse_tools() -> Iterable[specs.ToolSpec]:  # type: ignore[empty-body]
    """Yield one spec for each tool that agents can call.

    >>> @hookimpl
    ... def inhouse_tools():
    ...     yield ToolSpec(name="clock", summary="The time", factory="acme.clock:Clock")
    >>> next(inhouse_tools()).summary
    'The time'
    """


@hookspec
def inhouse_agents() -> Iterable[specs.AgentSpec]:  # type: ignore[empty-body]
    """Yield one spec for each agent.

    >>> @hookimpl
    ... def inhouse_agents():
    ...     yield AgentSpec(name="plan", summary="Plan, then act", factory="acme.plan:Agent")
    >>> next(inhouse_agents()).name
    'plan'
    """


@hookspec
def inhouse_executors() -> Iterable[specs.ExecutorSpec]:  # type: ignore[empty-body]
    """Yield one spec for each way to run a step's work; ``[run] executor = "name"`` picks one.

    >>> @hookimpl
    ... def inhouse_executors():
    ...     yield ExecutorSpec(name="ssh", summary="On another machine", factory="acme.ssh:Executor")
    >>> next(inhouse_executors()).kind
    'executor'
    """


# --- the kernel ---------------------------------------------------------------------------------------


@hookspec
def inhouse_event_types() -> Iterable[type[Event]]:  # type: ignore[empty-body]
    """Yield event classes of your own, so that journals read them back as such.

    >>> from attrs import frozen
    >>> @frozen
    ... class ShardWritten(Event):
    ...     rows: int
    >>> @hookimpl
    ... def inhouse_event_types():
    ...     yield ShardWritten
    >>> next(inhouse_event_types()).__name__
    'ShardWritten'
    """


@hookspec
def inhouse_commands() -> Iterable[specs.CommandSpec]:  # type: ignore[empty-body]
    """Yield one spec for each command of the command line; ``factory`` names a ``click.Command``.

    Asked when a command is typed that is not the core's own, so ``inhouse --help`` loads no plugin.

    >>> @hookimpl
    ... def inhouse_commands():
    ...     yield CommandSpec(name="upload", summary="To our own server", factory="acme.upload:command")
    >>> next(inhouse_commands()).kind
    'command'
    """


@hookspec
def inhouse_subscribers(bus: Bus, terminal: bool) -> None:
    """Subscribe listeners; called once at the start of each run.

    ``terminal`` says that standard error is a terminal and the user did not ask for quiet.

    >>> from inhouse.events import StepFinished
    >>> @hookimpl
    ... def inhouse_subscribers(bus):
    ...     bus.subscribe(StepFinished, lambda event: print(event.step))
    >>> bus = Bus(); inhouse_subscribers(bus)
    >>> bus.publish(StepFinished("finetune", "trainer", "lora", 1.0, False))
    finetune
    """


@hookspec
def inhouse_step(step: Step) -> Generator[None, None, None]:  # type: ignore[empty-body]
    """Wrap a step's work: a generator that yields once; what follows the ``yield`` runs after the work.

    Called for each step that is not cached; an exception thrown in by the work goes on after the wrapper.

    >>> @hookimpl
    ... def inhouse_step(step):
    ...     print("before"); yield; print("after")
    >>> list(inhouse_step(None))
    before
    after
    [None]
    """
