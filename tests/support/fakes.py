"""A plugin with a tiny backend of every kind. Models are text files; what a backend does can be counted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from inhouse import (
    AgentSpec,
    EmbedderSpec,
    EvaluatorSpec,
    ExecutorSpec,
    IndexerSpec,
    Input,
    PackagerSpec,
    QuantizerSpec,
    RuntimeSpec,
    Slot,
    SourceSpec,
    ToolSpec,
    TrainerSpec,
    VectorStoreSpec,
    hookimpl,
)
from inhouse.protocols import Agent, Dialogue, KnowledgeBase, Step, Tool, ToolContext
from inhouse.specs import Spec
from inhouse.values import (
    Answer,
    Artifact,
    Call,
    Completion,
    Message,
    Observation,
    Parameter,
    Passage,
    Request,
    ToolSchema,
)

RECIPE = """\
name = "fake"
seed = 7
gates = false
[target]
memory = "1GiB"
context = 64

[base]
use = "blank"

[data]
use = "rows"
[data.rows]
chat = "chat.jsonl"

[finetune]
use = "tune"
[finetune.tune]
rate = 0.5
units = 3

[quantize]
use = "shrink"

[knowledge]
use = "shelf"

[runtime]
use = "echo"

[agent]
use = "parrot"
tools = ["upper"]

[evaluate]
use = "count"

[bundle]
use = "box"
"""
"""A recipe with every usual step but pretrain, all of them fakes."""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe and its data in ``folder``; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


# --- stages -----------------------------------------------------------------------------------------


@frozen
class BlankOptions:
    """``refuse`` makes the probe say no; ``context`` and ``bytes`` are what ``describe`` says."""

    text: str = field(default="model", metadata={"help": "what the model is"})
    refuse: str = field(default="", metadata={"help": "why it cannot run here", "counts": False})
    context: int = field(default=1024, metadata={"help": "tokens", "counts": False})
    bytes: int = field(default=100, metadata={"help": "size", "counts": False})


class Blank:
    """Source of a model."""

    def __init__(self, options: BlankOptions) -> None:
        self.options = options

    def probe(self) -> str | None:
        return self.options.refuse or None

    def describe(self) -> dict[str, int]:
        return {"context": self.options.context, "bytes": self.options.bytes}

    def produce(self, step: Step) -> None:
        (step.output / "model.txt").write_text(self.options.text)


@frozen
class RowsOptions:
    """``chat`` is copied."""

    chat: Path = field(metadata={"help": "JSON lines"})
    corpus: Path | None = field(default=None, metadata={"help": "a folder"})


class Rows:
    """Source of data."""

    def __init__(self, options: RowsOptions) -> None:
        self.options = options

    def produce(self, step: Step) -> None:
        (step.outputs["text/chat"] / "train.jsonl").write_text(self.options.chat.read_text())
        (step.outputs["text/corpus"] / "corpus.jsonl").write_text('{"id": "a", "text": "hello world"}\n')


@frozen
class TuneOptions:
    """How the fake training goes, or goes wrong."""

    rate: float = field(default=0.1, metadata={"help": "learning rate"})
    units: int = field(default=3, metadata={"help": "units of work"})
    pause: float = field(default=0.0, metadata={"help": "seconds for each unit", "counts": False})
    fail_at: int = field(default=-1, metadata={"help": "unit that raises", "counts": False})
    log: Path | None = field(default=None, metadata={"help": "file that gets a line for each unit", "counts": False})


class Tune:
    """Trainer with checkpoints: the result names every unit, and is the same however often it was killed."""

    def __init__(self, options: TuneOptions) -> None:
        self.options = options

    def train(self, step: Step, model: Artifact, data: Artifact) -> None:
        saved = step.checkpoints / "done.json"
        done: list[int] = json.loads(saved.read_text()) if saved.exists() else []
        for unit in range(len(done), self.options.units):
            if unit == self.options.fail_at:
                raise ValueError(f"no gradient at {unit}")
            step.progress(unit, self.options.units, unit="unit")
            time.sleep(self.options.pause)
            done.append(unit)
            aside = saved.with_suffix(".new")
            aside.write_text(json.dumps(done))
            aside.replace(saved)
            if self.options.log:
                with self.options.log.open("a") as stream:
                    stream.write(f"{os.getpid()} {unit}\n")
            step.metric("loss", 1.0 / (unit + 1), at=unit)
        text = (model.path / "model.txt").read_text()
        (step.outputs["model/hf"] / "model.txt").write_text(f"{text}+{done}@{self.options.rate}")
        (step.outputs["adapter/peft"] / "adapter.txt").write_text(str(done))
        step.note(loss=1.0 / len(done))


@frozen
class ShrinkOptions:
    """``type`` names the format."""

    type: str = field(default="q4", metadata={"help": "format"})


class Shrink:
    """Quantizer."""

    def __init__(self, options: ShrinkOptions) -> None:
        self.options = options

    def quantize(self, step: Step, model: Artifact) -> None:
        for each in step.track(sorted(model.path.iterdir()), unit="file"):
            (step.output / each.name).write_text(f"{self.options.type}({each.read_text()})")
        step.note(type=self.options.type, bits_per_weight=4.5)


@frozen
class NoneAtAll:
    """No options."""


class Shelf:
    """Indexer: one JSON file."""

    def __init__(self, options: NoneAtAll) -> None:
        self.options = options

    def index(self, step: Step, corpus: Artifact) -> None:
        rows = [json.loads(line) for line in (corpus.path / "corpus.jsonl").read_text().splitlines()]
        vectors = step.service("embedder").embed([each["text"] for each in rows])
        step.service("vector_store").rebuild([1], vectors, generation=1)
        (step.output / "shelf.json").write_text(json.dumps(rows))

    def open(self, folder: Path, services: Mapping[str, Any]) -> KnowledgeBase:
        assert set(services) == {"vector_store", "embedder"}
        return OpenShelf(json.loads((folder / "shelf.json").read_text()))


class OpenShelf:
    """Every document is found."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.rows = rows
        self.closed = False

    def search(self, query: str, k: int = 5, *, where: Mapping[str, Any] | None = None) -> list[Passage]:
        return [Passage(each["id"], 0, each["id"], each["text"], 0, len(each["text"]), 1.0) for each in self.rows][:k]

    def close(self) -> None:
        self.closed = True


class Count:
    """Evaluator: asks every model one question."""

    def __init__(self, options: NoneAtAll) -> None:
        self.options = options

    def evaluate(self, step: Step, models: list[Artifact], knowledge: Artifact | None) -> None:
        answers = {}
        for model in models:
            with step.services.engine(model) as engine:
                request = Request((Message("user", "hello"),))
                answers[f"{model.step}:{model.kind}"] = engine.generate([request])[0].text
        step.services.agent(knowledge)
        (step.output / "report.json").write_text(json.dumps({"answers": answers, "history": len(step.history)}))


class Box:
    """Packager: a bundle that ``inhouse_answer.bundle.Bundle`` opens."""

    def __init__(self, options: NoneAtAll) -> None:
        self.options = options

    def deploy(self, bundle: Artifact, folder: Path, notice: Callable[[str], None]) -> Path:
        import shutil

        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
        notice("deployed")
        return folder

    def package(self, step: Step, model: Artifact, knowledge: Artifact | None) -> None:
        import shutil

        shutil.copytree(model.path, step.output / "model")
        if knowledge:
            shutil.copytree(knowledge.path, step.output / "knowledge")
        settings = {
            "format": 1,
            "name": "fake",
            "model": {"kind": model.kind, "folder": "model"},
            "knowledge_folder": "knowledge" if knowledge else None,
            **step.services.settings(),
        }
        (step.output / "bundle.json").write_text(json.dumps(settings))


# --- services ---------------------------------------------------------------------------------------


class Echo:
    """Runtime: repeats what it was asked, after the model's text."""

    def __init__(self, options: NoneAtAll) -> None:
        self.options = options

    def open(self, model: Path, *, context: int, threads: int = 0) -> EchoEngine:
        return EchoEngine((model / "model.txt").read_text(), context)


class EchoEngine:
    """An engine without a model."""

    batch = 16
    features = frozenset({"stream"})

    def __init__(self, text: str, context: int) -> None:
        self.text = text
        self.context = context
        self.batches: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.batches.append(len(requests))
        return [Completion(f"{self.text}: {self._asked(each)}", "stop", 1, 1, 0.0) for each in requests]

    def stream(self, request: Request) -> Iterator[str]:
        yield from self._asked(request)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        return "\n".join(each.content for each in messages)

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-1.0] * (len(each) - 1) for each in sequences]

    def memory(self) -> int:
        return 1

    def close(self) -> None:
        pass

    def __enter__(self) -> EchoEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, request: Request) -> str:
        return request.messages[-1].content if request.messages else request.prompt or ""


class Letters:
    """Embedder of one dimension."""

    name = "letters"
    dimension = 1

    def __init__(self, options: NoneAtAll) -> None:
        self.options = options

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0] for _ in texts]


class Pile:
    """Vector store that keeps nothing on disk."""

    def __init__(self, options: NoneAtAll) -> None:
        self.ids: list[int] = []

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        return False

    def rebuild(self, ids: Sequence[int], vectors: Any, *, generation: int) -> None:
        self.ids = list(ids)

    def add(self, ids: Sequence[int], vectors: Any) -> None:
        self.ids += ids

    def delete(self, ids: Sequence[int]) -> None:
        self.ids = [each for each in self.ids if each not in ids]

    def search(self, vector: Any, k: int, *, among: Sequence[int] | None = None) -> list[tuple[int, float]]:
        return [(each, 1.0) for each in self.ids if among is None or each in among][:k]

    def count(self) -> int:
        return len(self.ids)

    def flush(self, *, generation: int) -> None:
        pass

    def close(self) -> None:
        pass


@frozen
class UpperOptions:
    """A file a tool may have."""

    file: Path | None = field(default=None, metadata={"help": "a file"})


class Upper:
    """Tool: capital letters."""

    def __init__(self, options: UpperOptions, context: ToolContext) -> None:
        self.options = options
        self.schema = ToolSchema(context.name, "capitals", (Parameter("text"),))

    def call(self, arguments: Mapping[str, Any]) -> Observation:
        return Observation(str(arguments.get("text", "")).upper())


class Parrot:
    """Agent: one generation, one call; an empty question is answered without either."""

    def __init__(self, options: NoneAtAll, tools: Mapping[str, Tool]) -> None:
        self.tools = tools

    def start(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        examples: Sequence[Message] = (),
        grammar: bool = False,
    ) -> Dialogue:
        if not question:
            return Answer("nothing asked", "answered")
        completion = yield Request((*history, Message("user", question)))
        calls = []
        for name, tool in self.tools.items():
            said = tool.call({"text": completion.text})
            calls.append(Call("", name, {"text": completion.text}, said.text))
        return Answer(completion.text, "answered", tuple(calls), completion_tokens=completion.completion_tokens)


class Inline:
    """Executor: does the work twice over nothing, once."""

    def __init__(self, options: NoneAtAll) -> None:
        self.options = options

    def execute(self, work: Callable[[], None]) -> None:
        work()


_: type[Agent] = Parrot


# --- hooks ------------------------------------------------------------------------------------------


def _spec(kind: type[Spec], name: str, factory: type[Any], **more: Any) -> Any:
    return kind(name=name, summary=str(factory.__doc__), factory=f"support.fakes:{factory.__name__}", **more)


@hookimpl
def inhouse_sources() -> Iterator[SourceSpec]:
    yield _spec(SourceSpec, "blank", Blank, options=BlankOptions, produces="model/hf")
    yield _spec(SourceSpec, "rows", Rows, options=RowsOptions, produces=("text/chat", "text/corpus"))


@hookimpl
def inhouse_trainers() -> Iterator[TrainerSpec]:
    kinds = {"consumes": ("model/hf", "text/chat"), "produces": ("model/hf", "adapter/peft")}
    yield _spec(TrainerSpec, "tune", Tune, options=TuneOptions, **kinds)


@hookimpl
def inhouse_quantizers() -> Iterator[QuantizerSpec]:
    yield _spec(QuantizerSpec, "shrink", Shrink, options=ShrinkOptions, consumes="model/hf", produces="model/fake")


@hookimpl
def inhouse_indexers() -> Iterator[IndexerSpec]:
    slots = (Slot("vector_store", "vector_store", "pile"), Slot("embedder", "embedder", "letters"))
    yield _spec(
        IndexerSpec, "shelf", Shelf, options=NoneAtAll, consumes="text/corpus", produces="knowledge", slots=slots
    )


@hookimpl
def inhouse_evaluators() -> Iterator[EvaluatorSpec]:
    taken = (Input("model/*", take="all"), Input("knowledge", optional=True))
    yield _spec(EvaluatorSpec, "count", Count, options=NoneAtAll, consumes=taken, produces="report")


@hookimpl
def inhouse_packagers() -> Iterator[PackagerSpec]:
    taken = ("model/*", Input("knowledge", optional=True))
    yield _spec(PackagerSpec, "box", Box, options=NoneAtAll, consumes=taken, produces="bundle")


@hookimpl
def inhouse_runtimes() -> Iterator[RuntimeSpec]:
    yield _spec(RuntimeSpec, "echo", Echo, options=NoneAtAll, consumes=("model/*",))


@hookimpl
def inhouse_embedders() -> Iterator[EmbedderSpec]:
    yield _spec(EmbedderSpec, "letters", Letters, options=NoneAtAll)


@hookimpl
def inhouse_vector_stores() -> Iterator[VectorStoreSpec]:
    yield _spec(VectorStoreSpec, "pile", Pile, options=NoneAtAll)


@hookimpl
def inhouse_tools() -> Iterator[ToolSpec]:
    yield _spec(ToolSpec, "upper", Upper, options=UpperOptions)


@hookimpl
def inhouse_agents() -> Iterator[AgentSpec]:
    yield _spec(AgentSpec, "parrot", Parrot, options=NoneAtAll)


@hookimpl
def inhouse_executors() -> Iterator[ExecutorSpec]:
    yield _spec(ExecutorSpec, "inline", Inline, options=NoneAtAll)
