"""A plugin for the tests: a source that writes the smallest GGUF, and an agent with a system message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import field, frozen
from gguf import GGUFWriter

from inhouse import AgentSpec, RuntimeSpec, SourceSpec, hookimpl

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@frozen
class ModelOptions:
    template: str = CHATML
    rows: int = 4
    fill: float = 0.0


class Model:
    def __init__(self, options):
        self.options = options

    def produce(self, step):
        writer = GGUFWriter(step.output / "model.gguf", "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a"])
        writer.add_eos_token_id(2)
        writer.add_bos_token_id(1)
        writer.add_chat_template(self.options.template)
        writer.add_tensor("token_embd.weight", np.full((self.options.rows, 1024), self.options.fill, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


@frozen
class SaysOptions:
    system: Path = field(metadata={"help": "system message"})


class Says:
    def __init__(self, options, tools):
        pass


class Nothing:
    def __init__(self, options):
        pass


@hookimpl
def inhouse_sources():
    yield SourceSpec(
        name="tiny", summary="t", factory="ollama_parts:Model", options=ModelOptions, produces="model/gguf"
    )
    yield SourceSpec(name="other", summary="t", factory="ollama_parts:Nothing", produces="model/hf")


@hookimpl
def inhouse_agents():
    yield AgentSpec(name="says", summary="t", factory="ollama_parts:Says", options=SaysOptions)


@hookimpl
def inhouse_runtimes():
    yield RuntimeSpec(name="none", summary="t", factory="ollama_parts:Nothing", consumes="model/gguf")
