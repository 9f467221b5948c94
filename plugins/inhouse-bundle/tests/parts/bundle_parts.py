"""A plugin for the tests: the smallest parts that a bundle can be made of and answer with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from attrs import field, frozen
from gguf import GGUFWriter

from inhouse import (
    AgentSpec,
    EmbedderSpec,
    EvaluatorSpec,
    IndexerSpec,
    Input,
    QuantizerSpec,
    RuntimeSpec,
    Slot,
    SourceSpec,
    ToolSpec,
    hookimpl,
)
from inhouse.values import Answer, Call, Completion, Observation, Parameter, Passage, Request, ToolSchema

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nI am nobody<|im_end|>\n"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


GATES = {
    "tasks": {"passed": False, "measured": "61 of 80 solved", "accepted": True, "state": "failed"},
    "memory": {"passed": True, "measured": "230 MB", "accepted": False, "unit": "B"},
    "odd": {"passed": "yes"},
    "none": 7,
}


def write_gguf(path: Path, template: str) -> None:
    """A GGUF with a vocabulary of four and one tensor."""
    import numpy as np

    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@frozen
class ModelOptions:
    template: str = CHATML
    author: str = "nobody"


class Model:
    def __init__(self, options):
        self.options = options

    def produce(self, step):
        write_gguf(step.output / "model.gguf", self.options.template)
        step.note(
            type="f32",
            bits_per_weight=32.0,
            source="/srv/somebody/secret/model.gguf",
            losses=[4 - n / 3 for n in range(8)],
            heldout_losses=[[n, 4.2 - n / 4] for n in range(1, 8, 2)],
        )


class Copy:
    def __init__(self, options):
        pass

    def quantize(self, step, model):
        shutil.copyfile(model.path / "model.gguf", step.output / "model.gguf")


class Docs:
    def __init__(self, options):
        pass

    def produce(self, step):
        (step.output / "corpus.jsonl").write_text(
            '{"id": "a", "title": "A", "text": "returns: 30 days", "path": "a.md"}\n'
        )


@frozen
class LettersOptions:
    table: Path = field(metadata={"help": "a file"})


class Letters:
    name = "letters"
    dimension = 1

    def __init__(self, options):
        self.table = options.table.read_text()

    def embed(self, texts):
        return [[1.0] for _ in texts]


class Lines:
    def __init__(self, options):
        pass

    def index(self, step, corpus):
        shutil.copyfile(corpus.path / "corpus.jsonl", step.output / "lines.jsonl")

    def open(self, folder, services):
        return Base(folder / "lines.jsonl", services["embedder"])


class Base:
    def __init__(self, path, embedder):
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.table = embedder.table

    def search(self, query, k=5, *, where=None):
        return [Passage(r["id"], 0, r["title"], r["text"] + self.table, 0, 1, 1.0) for r in self.rows][:k]

    def close(self):
        pass


@frozen
class CannedOptions:
    report: Path = field(metadata={"help": "the report to hand on"})


class Canned:
    def __init__(self, options):
        self.options = options

    def evaluate(self, step, models, knowledge):
        shutil.copyfile(self.options.report, step.output / "report.json")
        step.note(gate="failed", gates=GATES)


class Gate:
    """An evaluator whose product says whether a gate failed."""

    def __init__(self, options):
        self.options = options

    def evaluate(self, step, model):
        (step.output / "gates.json").write_text(json.dumps({"accepted": self.options.accept}))
        step.note(gates={"fit": {"passed": False, "measured": "2 GB", "accepted": self.options.accept}})


@frozen
class GateOptions:
    accept: bool = False


@frozen
class ShelfOptions:
    book: Path = field(metadata={"help": "a file"})
    limit: int = 100


class Shelf:
    def __init__(self, options, context):
        self.options = options
        self.context = context
        self.schema = ToolSchema(context.name, "reads", (Parameter("page"),))

    def call(self, arguments):
        found = self.context.knowledge.search("returns", 1)[0].text if self.context.knowledge else ""
        return Observation(self.options.book.read_text().strip() + found)


@frozen
class EchoOptions:
    system: Path = field(metadata={"help": "system message"})


class Echo:
    def __init__(self, options, tools):
        self.system = options.system.read_text()
        self.tools = tools

    def start(self, question, *, history=(), examples=(), grammar=False):
        completion = yield Request(prompt=question)
        calls = tuple(Call("", name, {}, tool.call({}).text) for name, tool in self.tools.items())
        return Answer(f"{self.system.strip()} {completion.text}", "answered", calls)


class Parrot:
    def __init__(self, options):
        pass

    def open(self, model, *, context, threads=0):
        assert (model / "model.gguf").is_file()
        return ParrotEngine(context)


class ParrotEngine:
    batch = 16
    features = frozenset()

    def __init__(self, context):
        self.context = context

    def generate(self, requests):
        return [Completion(f"{r.prompt} {self.context}", "stop", 1, 1, 0.0) for r in requests]

    def close(self):
        pass


@hookimpl
def inhouse_sources():
    yield SourceSpec(
        name="tiny", summary="t", factory="bundle_parts:Model", options=ModelOptions, produces="model/gguf"
    )
    yield SourceSpec(name="docs", summary="t", factory="bundle_parts:Docs", produces="text/corpus")


@hookimpl
def inhouse_quantizers():
    yield QuantizerSpec(
        name="copy", summary="t", factory="bundle_parts:Copy", consumes="model/gguf", produces="model/gguf"
    )


@hookimpl
def inhouse_indexers():
    yield IndexerSpec(
        name="lines",
        summary="t",
        factory="bundle_parts:Lines",
        consumes="text/corpus",
        produces="knowledge",
        slots=[Slot("embedder", "embedder", default="letters")],
    )


@hookimpl
def inhouse_embedders():
    yield EmbedderSpec(name="letters", summary="t", factory="bundle_parts:Letters", options=LettersOptions)


@hookimpl
def inhouse_evaluators():
    yield EvaluatorSpec(
        name="canned",
        summary="t",
        factory="bundle_parts:Canned",
        options=CannedOptions,
        consumes=(Input("model/*", take="all"), Input("knowledge", optional=True)),
        produces="report",
    )

    yield EvaluatorSpec(
        name="gate",
        summary="t",
        factory="bundle_parts:Gate",
        options=GateOptions,
        consumes="model/*",
        produces="report/gates",
    )


@hookimpl
def inhouse_tools():
    yield ToolSpec(name="shelf", summary="t", factory="bundle_parts:Shelf", options=ShelfOptions)


@hookimpl
def inhouse_agents():
    yield AgentSpec(name="echo", summary="t", factory="bundle_parts:Echo", options=EchoOptions)


@hookimpl
def inhouse_runtimes():
    yield RuntimeSpec(name="parrot", summary="t", factory="bundle_parts:Parrot", consumes="model/gguf")
