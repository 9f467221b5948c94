"""One Protocol per kind of backend (the values that pass between them are in ``inhouse.values``).

A backend is a plain class called with its options; nothing here has to be inherited from.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from attrs import frozen

from inhouse.events import Event
from inhouse.values import (
    Answer,
    Artifact,
    Completion,
    Json,
    Message,
    Observation,
    Passage,
    Request,
    StepRecord,
    Target,
    ToolSchema,
)

T = TypeVar("T")

Matrix: TypeAlias = Any
"""A C-contiguous float32 array of shape (rows, dimension); core does not import numpy."""
Ids: TypeAlias = Any
"""Ascending ids: a sequence of integers, or an int64 array."""


# --- artifacts and the step -------------------------------------------------------------------------


class Step(Protocol):
    """What a stage backend gets: where to write, how to tell, what else is there.

    Write into ``output`` (or ``outputs[kind]`` when the spec produces several kinds); the kernel commits
    the folders when the method returns. ``checkpoints`` survives a kill and is there again on resume;
    it goes when the step is committed.
    """

    name: str
    recipe: str
    seed: int
    target: Target
    output: Path
    outputs: Mapping[str, Path]
    checkpoints: Path
    history: Sequence[StepRecord]

    def earlier(self) -> Iterable[Artifact]:
        """What this step made in the store before, of whatever inputs and options, newest first: for a backend that
        takes over what did not change. The result must be what it would be without it."""

    def track(self, items: Iterable[T], *, total: int | None = None, unit: str = "item") -> Iterator[T]:
        """Yields ``items`` with progress events, and raises ``Interrupted`` when the run is cancelled."""

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        """Says how far it is; cheap, may be dropped. Raises ``Interrupted`` when the run is cancelled."""

    def publish(self, event: Event) -> None:
        """Publishes an event, such as one of the plugin's own (hook ``inhouse_event_types``)."""

    def metric(self, name: str, value: float, *, at: int) -> None:
        """Publishes one measured value (loss, learning rate …) at step ``at``."""

    def notice(self, message: str, *, level: Literal["info", "warning"] = "info") -> None:
        """Tells the user one line."""

    def note(self, **facts: Json) -> None:
        """Facts kept with the artifact (bits per weight, best held-out loss …), read back as ``meta``."""

    def service(self, slot: str) -> Any:
        """The live service in one of the spec's slots (embedder, vector store), made on first use."""

    @property
    def services(self) -> "Services":
        """The recipe's answering side: runtimes, knowledge, tools and agent."""


# --- stages -----------------------------------------------------------------------------------------


class Source(Protocol):
    """Writes artifacts from outside material (files, packages, a hub when the recipe allows it).

    It may have ``describe() -> dict``, what it knows before any work: ``bytes`` it will write, and for a
    model the ``context`` in tokens that it was made for; the planner checks both.
    """

    def produce(self, step: Step) -> None: ...


class Trainer(Protocol):
    """Takes a model and data (in the order of ``consumes``), writes a model."""

    def train(self, step: Step, *inputs: Any) -> None: ...


class Quantizer(Protocol):
    """Takes a model, writes a smaller one; notes ``bits_per_weight`` and ``type``."""

    def quantize(self, step: Step, *inputs: Any) -> None: ...


class Indexer(Protocol):
    """Makes a knowledge base, and opens it again (in the kernel's process or from a bundle)."""

    def index(self, step: Step, *inputs: Any) -> None: ...

    def open(self, folder: Path, services: Mapping[str, Any]) -> "KnowledgeBase":
        """Opens what ``index`` wrote; ``services`` maps the spec's slot names to live services."""


class Evaluator(Protocol):
    """Measures; writes ``report.json`` (kind ``report``)."""

    def evaluate(self, step: Step, *inputs: Any) -> None: ...


class Packager(Protocol):
    """Writes the folder that gets deployed (kind ``bundle``).

    It may have ``deploy(bundle: Artifact, folder: Path, notice: Callable[[str], None]) -> Path``, called after
    every run, also when the bundle was found in the store: puts the bundle where its owner uses and changes
    it, and returns that place. Without it the bundle stays in the store.
    """

    def package(self, step: Step, *inputs: Any) -> None: ...


class Rounded(Protocol):
    """The weights of one model in a number format; ``every``: training steps that one rounding may serve."""

    every: int

    def round(self, name: str, values: Matrix) -> Matrix:
        """``values`` (rows, columns) of a tensor of the model, by its name there, as the quantised file holds them.

        Called from several threads. Raises ``DataError`` for a name that the model does not have.
        """


class Rounding(Protocol):
    """A number format that a quantizer writes, for training with it."""

    def open(self, folder: Path) -> Rounded:
        """For the model in ``folder`` (``model/hf``). Raises ``DataError`` for one that the format cannot hold."""


# --- runtimes ---------------------------------------------------------------------------------------


class Engine(Protocol):
    """A model held open; a context manager. ``context`` in tokens. Features: grammar, logprobs, distributions, stream,
    tools.

    ``batch`` is how many requests it decodes together at most; of more in one call, some wait. Engines with the feature
    ``tools`` take ``render(messages, tools=[...])``, JSON schemas of functions. One may have ``told``, a line that says
    which settings it runs with and why, where they are not its usual ones.
    """

    batch: int
    context: int
    features: frozenset[str]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All answers, in order; engines decode them together and share common prompt prefixes.

        Raises ``EngineError`` when the engine died, ``RecipeError`` when a prompt exceeds ``context``.
        """

    def stream(self, request: Request) -> Iterator[str]:
        """Pieces of one answer as they are decoded; valid UTF-8, stop strings held back."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text that the chat template makes, rendered in a sandbox."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids; special tokens in ``text`` are parsed, none is added."""

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log-probability of ids[i] given ids[:i], for i = 1 … n-1 (so n-1 values each)."""

    def distributions(self, sequences: Sequence[Sequence[int]]) -> Iterator[Matrix]:
        """For each sequence the logits after ids[:i], i = 1 … n-1: (n-1, vocabulary), one sequence at a time.

        Only engines with the feature ``distributions`` have it.
        """

    def memory(self) -> int:
        """Resident bytes (PSS or RSS) of the process that holds the model."""

    def close(self) -> None: ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *_: object) -> None: ...


class Runtime(Protocol):
    """Opens models of the kinds its spec consumes."""

    def open(self, model: Path, *, context: int, threads: int = 0) -> Engine:
        """Loads ``model`` (an artifact folder). Raises ``EngineError`` with what the engine said."""


# --- knowledge --------------------------------------------------------------------------------------


class Embedder(Protocol):
    """``name`` and ``dimension`` identify the vector space; vectors have unit length."""

    name: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> Matrix:
        """float32 (len(texts), dimension)."""


class VectorStore(Protocol):
    """An index over vectors whose truth lies elsewhere; its rules are a table in ``docs/knowledge.md``, and tests in
    ``inhouse_testing.stores``. Every method but ``open`` needs an open store, and may be called from any thread.
    """

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        """Opens the index of ``generation``; False, and an empty one, when it is missing, damaged or another's."""

    def rebuild(self, ids: Sequence[int], vectors: Matrix, *, generation: int) -> None:
        """Replaces the index by these vectors, durably: killed, the old one is whole."""

    def add(self, ids: Sequence[int], vectors: Matrix) -> None:
        """Adds vectors, in place of those whose id is there; ``flush`` keeps them."""

    def delete(self, ids: Sequence[int]) -> None:
        """Forgets ids; those that are not there are passed over."""

    def search(self, vector: Matrix, k: int, *, among: Ids | None = None) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity), best first, of the ids ``among`` if given; fewer only if fewer are left."""

    def count(self) -> int: ...

    def flush(self, *, generation: int) -> None:
        """Keeps what was added and deleted, as the index of ``generation``."""

    def close(self) -> None: ...


class KnowledgeBase(Protocol):
    """An open knowledge base."""

    def search(self, query: str, k: int = 5, *, where: Mapping[str, Json] | None = None) -> list[Passage]:
        """Up to k passages, best first, of documents whose metadata has each value of ``where`` (one of a list)."""

    def close(self) -> None: ...


# --- tools and agents -------------------------------------------------------------------------------


@frozen
class ToolContext:
    """What a tool is made with besides its options: its name in the recipe, and the open knowledge base."""

    name: str
    knowledge: KnowledgeBase | None = None


class Tool(Protocol):
    """Made as ``Class(options, context)``. ``call`` never raises for bad arguments: the model can err."""

    schema: ToolSchema

    def call(self, arguments: Mapping[str, Json]) -> Observation: ...


Dialogue: TypeAlias = Generator[Request, Completion, Answer]
"""Yields what it wants generated, is sent the completion, returns the answer. No engine inside: a driver
runs one against an engine, or many in lock step so that the engine decodes them as a batch."""


class Agent(Protocol):
    """Made as ``Class(options, tools)`` with the tools by name, in the recipe's order."""

    def start(
        self, question: str, *, history: Sequence[Message] = (), examples: Sequence[Message] = (), grammar: bool = False
    ) -> Dialogue:
        """Begins one answer. ``examples`` are few-shot turns put before it (for untuned models);
        ``grammar`` says that the engine obeys GBNF grammars."""


class Services(Protocol):
    """The answering side of a recipe or a bundle, opened on demand, closed by its owner."""

    def engine(self, model: Artifact, *, context: int | None = None) -> Engine:
        """Opens ``model`` with the runtime for its kind; the caller closes it. Context: the target's."""

    def runtime_name(self, kind: str) -> str:
        """Which runtime would open a model of ``kind``."""

    def agent(self, knowledge: Artifact | None) -> Agent:
        """The recipe's agent with its tools, over an open knowledge base."""

    def settings(self) -> Mapping[str, Json]:
        """Agent, tools, runtimes and knowledge base as plain data, each {use, version, options, files, slots};
        ``files`` are the options that are paths, absolute here, relative to the bundle in a bundle."""


class Executor(Protocol):
    """Runs a step's work somewhere: here, in a child process, on another machine."""

    def execute(self, work: Callable[[], None]) -> None: ...
