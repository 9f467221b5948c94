"""The converted file computes, tokenizes and says the same as the folder it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse_gguf.convert import convert, exact_type
from inhouse_gguf.facts import metadata
from inhouse_gguf.values import as_float32, from_float32
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.runtime import LlamaCppRuntime
from support.tiny_llama import PRE, TEMPLATE, make_model

HARD = [
    "The order 48213 was shipped on 3 May.",
    "I'LL don't WE'VE it's 'quoted' 12345678 x2y ½ ² ٣٤",
    "tabs\tand\r\nlines\n\n\n  indented   and trailing   ",
    "naïve cafe\u0301 größer 東京タワー Ελλάδα 🙂👍🏽 \u200b\u00a0!",
    "<|im_start|>user\nspecial <|im_end|> and <tool> inside<|endoftext|>",
    'Action: orders {"order_id": "48213"}',
]


def _convert(folder: Path, target: Path, wanted: str) -> Path:
    target.mkdir()
    convert(folder, target / "model.gguf", wanted, lambda done, total, name: None)
    return target


def _reference(folder: Path, ids: list[int], dtype: torch.dtype) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict({name: each.to(dtype).float() for name, each in model.state_dict().items()})
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    return [float(logs[i, ids[i + 1]]) for i in range(len(ids) - 1)]


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"width": 96},
        {"attention_bias": True},
        {"rope_parameters": LLAMA3_ROPE},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"head_dim": 32},
    ],
    ids=["256", "96", "bias", "llama3-rope", "linear-rope", "head-dim"],
)
def test_log_probabilities_equal_those_of_transformers(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = make_model(tmp_path / "hf", **settings)
    made = _convert(folder, tmp_path / "gguf", "F16")
    ids = torch.randint(3, 500, (120,), generator=torch.Generator().manual_seed(1)).tolist()
    with LlamaCppRuntime(LlamaCppOptions()).open(made, context=256, threads=1) as engine:
        found = engine.logprobs([ids])[0]
    assert np.abs(np.array(found) - _reference(folder, ids, torch.float16)).max() < 0.03


@pytest.mark.parametrize("pre", PRE)
def test_token_ids_equal_those_of_transformers(tmp_path: Path, pre: str) -> None:
    folder = make_model(tmp_path / "hf", pre=pre)
    made = _convert(folder, tmp_path / "gguf", "F16")
    assert metadata(made / "model.gguf")["tokenizer.ggml.pre"] == pre
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with LlamaCppRuntime(LlamaCppOptions()).open(made, context=256, threads=1) as engine:
        for text in HARD:
            assert engine.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_metadata_says_what_the_folder_says(model: Path, tmp_path: Path) -> None:
    found = metadata(_convert(model, tmp_path / "gguf", "BF16") / "model.gguf")
    wanted = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": 32,
        "general.quantization_version": 2,
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 64,
        "llama.vocab_size": 512,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    assert {key: found.get(key) for key in wanted} == wanted
    types = found["tokenizer.ggml.token_type"]
    tokens = found["tokenizer.ggml.tokens"]
    assert types[:4] == [3, 3, 3, 1]  # control, control, control, normal
    assert types[tokens.index("<tool>")] == 4  # user defined
    assert (tokens[-1], types[-1]) == ("[PAD511]", 5)  # unused rows of the embedding


def test_a_bos_written_by_the_tokenizer_is_told(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "hf")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    path.write_text(json.dumps(content))
    found = metadata(_convert(folder, tmp_path / "gguf", "F16") / "model.gguf")
    assert found["tokenizer.ggml.add_bos_token"] is True


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_exact_type_keeps_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = make_model(tmp_path / "hf", dtype=dtype)
    wanted = exact_type(folder)
    assert wanted == {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]
    path = _convert(folder, tmp_path / "gguf", wanted) / "model.gguf"
    tensor = next(each for each in GGUFReader(path).tensors if each.name == "token_embd.weight")
    values = tensor.data.view(np.uint16) if wanted == "BF16" else tensor.data
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    np.testing.assert_array_equal(as_float32(values, wanted), state["model.embed_tokens.weight"].numpy())


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    values[:3] = [1.00390625, 1.01171875, -0.0]  # two ties
    wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(from_float32(values, "BF16"), wanted)
