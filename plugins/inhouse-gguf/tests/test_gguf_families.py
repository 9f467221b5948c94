"""Each family's GGUF computes in llama.cpp what transformers computes and cuts text the same; the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from attrs import frozen
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from inhouse.errors import DataError
from inhouse.values import Artifact
from inhouse_gguf import GgufOptions
from inhouse_gguf.adapter import convert_adapter
from inhouse_gguf.convert import convert
from inhouse_gguf.facts import metadata
from inhouse_gguf.quantizer import GgufQuantizer
from inhouse_gguf.rounding import GgufRounding
from support.tiny_llama import PRE, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it

IDS = torch.randint(3, 500, (120,), generator=torch.Generator().manual_seed(1)).tolist()

BYTES = [
    "The order 48213 was shipped on 3 May.",
    "I'LL don't WE'VE it's 'quoted' 12345678 x2y ½ ² ٣٤ camelCase HTTPServer/\n",
    "  tabs\tand\r\nlines\n\n\n  indented   and trailing   ",
    "naïve cafe\u0301 größer 東京タワー Ελλάδα 🙂👍🏽 \u200b\u00a0!",
    "<|im_start|>user\nspecial <|im_end|> and <tool> inside<|endoftext|>",
]
PIECES = [*BYTES[:4], "<|user|>\n  Hello  there<|end|> \n<s> and <tool>  inside</s>x<|endoftext|>  end", "▁▁ ▁a", " "]

CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
MORE = {
    "tekken": rf"{CASED}*{LOWER}+|{CASED}+{LOWER}*|\p{{N}}{TAIL}",
    "gpt-4o": rf"{CASED}*{LOWER}+{SHORT}|{CASED}+{LOWER}*{SHORT}|\p{{N}}{{1,3}}{TAIL}",
}
"""Pre-tokenizers of Mistral Nemo and Phi-4 mini."""


def _cut(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SIZES = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None, "dtype": "float32",
}  # fmt: skip
GENERAL = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "dtype")
FACTORS = {"short_factor": [1 + i / 32 for i in range(32)], "long_factor": [2 + i / 8 for i in range(32)]}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, **FACTORS}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


def _gemma_rope(near: float = 10000.0, **full: Any) -> dict[str, Any]:
    told = {"rope_type": "default", "rope_theta": 1000000.0, **full}
    return {"full_attention": told, "sliding_attention": {"rope_type": "default", "rope_theta": near}}


@frozen
class Case:
    """A tiny model: its class without ForCausalLM, its tokenizer, what its configuration adds, how far logits may be."""

    name: str
    tokenizer: str
    settings: dict[str, Any]
    exact: float = 1e-4


GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64, "num_hidden_layers": 7, "sliding_window": 16}
GPT2 = {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512}
CASES = {
    "llama2": Case("Llama", "prepend", {}),
    "mistral": Case("Mistral", "prepend", {"sliding_window": None}),
    "mistral-nemo": Case("Mistral", "tekken", {"sliding_window": None, "head_dim": 32}),
    "mistral-0.3": Case("Mistral", "metaspace", {"sliding_window": 128, "tie_word_embeddings": True}),
    "qwen2": Case("Qwen2", "qwen2", {}),
    "qwen2-yarn": Case("Qwen2", "qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": Case("Qwen3", "qwen2", {"head_dim": 32}),
    "qwen3-tied": Case("Qwen3", "qwen2", {"head_dim": 64, "tie_word_embeddings": True}),
    "smollm3": Case("SmolLM3", "llama-bpe", {"num_hidden_layers": 5}),
    "smollm3-untied": Case("SmolLM3", "llama-bpe", {"head_dim": 64, "tie_word_embeddings": False}),
    "phi3": Case("Phi3", "phi3", {"num_key_value_heads": 4}),
    "phi3-short": Case("Phi3", "phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 256}),
    "phi3-long": Case("Phi3", "phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
    "phi4": Case("Phi3", "gpt-4o", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75}}),
    "gemma3": Case("Gemma3", "gemma", GEMMA, 2e-2),
    "gemma3-linear": Case(
        "Gemma3", "gemma",
        {**GEMMA, "head_dim": 32, "query_pre_attn_scalar": 32, "rope_parameters": _gemma_rope(2e4, rope_type="linear", factor=8.0)},
        2e-2,
    ),
    "gpt2": Case("GPT2", "gpt-2", GPT2, 2e-2),
    "gpt2-inner": Case("GPT2", "gpt-2", {**GPT2, "n_inner": 768, "tie_word_embeddings": False}, 2e-2),
}  # fmt: skip


def make(folder: Path, case: Case, sentencepiece: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights, norms and biases too: else what is done to them would not show."""
    config = getattr(transformers, f"{case.name}{'Text' if case.name == 'Gemma3' else ''}Config")
    kept = {key: SIZES[key] for key in GENERAL} if case.name == "GPT2" else SIZES
    torch.manual_seed(5)
    kind = getattr(transformers, case.name + ("LMHeadModel" if case.name == "GPT2" else "ForCausalLM"))
    model = kind(config(**{**kept, **case.settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.12) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    if case.tokenizer in ("prepend", "metaspace", "gemma", "phi3"):
        strips = case.tokenizer == "phi3"
        sentencepiece(folder, "prepend" if strips else case.tokenizer, strips=strips)
    else:
        for name, pattern in MORE.items():
            monkeypatch.setitem(PRE, name, lambda pattern=pattern: _cut(pattern))  # type: ignore[arg-type]
        make_tokenizer(folder, case.tokenizer)
    return folder


@pytest.fixture
def build(sentencepiece: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a case, by its name."""
    return lambda name: make(tmp_path / "hf", CASES[name], sentencepiece, monkeypatch)


def reference(folder: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    """The logits of transformers in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tuned = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return np.asarray(tuned(torch.tensor([IDS])).logits[0])


def quiet(done: int, total: int, name: str) -> None:
    """No progress."""


def to_gguf(folder: Path, target: Path, wanted: str = "F32") -> Path:
    """Converts."""
    convert(folder, target, wanted, quiet)
    return target


@pytest.mark.parametrize("name", CASES)
def test_logits_and_ids_equal_those_of_transformers(
    build: Callable[[str], Path], run: Any, tmp_path: Path, name: str
) -> None:
    folder, case = build(name), CASES[name]
    texts = PIECES if case.tokenizer in ("prepend", "gemma", "phi3") else BYTES
    if case.tokenizer == "metaspace":
        texts = [each for each in BYTES if each[0] not in " <"]  # where llama.cpp puts a space and it does not
    found, cut = run(to_gguf(folder, tmp_path / "model.gguf"), IDS, texts)
    wanted = reference(folder)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < case.exact * wanted.std()
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)  # AutoTokenizer adds a normaliser to Qwen2's
    for text, ids in zip(texts, cut, strict=True):
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma3", "gpt2"])
@pytest.mark.parametrize(("type", "kinds", "alike"), [("q8_0", {"Q8_0"}, 0.98), ("q4_0", {"Q4_0", "Q6_K"}, 0.6)])
def test_quantised_families_compute_nearly_the_same(
    build: Callable[[str], Path], run: Any, step: Any, name: str, type: str, kinds: set[str], alike: float
) -> None:
    folder = build(name)
    GgufQuantizer(GgufOptions(type=type, threads=1)).quantize(step, Artifact("model/hf", folder, "digest"))
    assert set(step.facts["tensor_types"]) <= kinds | ({"F32"} if name == "gpt2" else set())
    found, _ = run(step.output / "model.gguf", IDS)
    assert np.corrcoef(found.ravel(), reference(folder).ravel())[0, 1] > alike


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ADAPTED = {
    "mistral": [*ATTENTION, "gate_proj", "up_proj", "down_proj", "lm_head"],
    "qwen3": ATTENTION,
    "smollm3": ATTENTION,
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gemma3": [*ATTENTION, "up_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_of_families(build: Callable[[str], Path], run: Any, tmp_path: Path, name: str) -> None:
    folder, adapter = build(name), tmp_path / "adapter"
    torch.manual_seed(3)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ADAPTED[name], "task_type": "CAUSAL_LM"}
    options["fan_in_fan_out"] = name == "gpt2"
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), LoraConfig(**options))
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if ".lora_" in key:
                parameter.normal_(std=0.1)
    tuned.save_pretrained(str(adapter), save_embedding_layers=False)
    convert_adapter(adapter, folder, tmp_path / "adapter.gguf", "F32", quiet)
    found, _ = run(to_gguf(folder, tmp_path / "model.gguf"), IDS, adapter=tmp_path / "adapter.gguf")
    wanted, before = reference(folder, adapter), reference(folder)
    spread = float(wanted.std())
    assert np.abs(found - wanted).max() < CASES[name].exact * 2 * spread
    assert np.abs(before - wanted).max() > 0.1 * spread


@pytest.mark.parametrize(
    ("name", "changed", "length"),
    [
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": 4096}, 512),
        ("qwen2", {"sliding_window": 64}, 512),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, 64),
        ("phi3", {"sliding_window": 100}, 100),
        ("gemma3", {}, 512),
    ],
)
def test_the_context_ends_with_a_window_that_llama_cpp_lacks(
    build: Callable[[str], Path], tmp_path: Path, name: str, changed: dict[str, Any], length: int
) -> None:
    path = build(name) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    found = metadata(to_gguf(path.parent, tmp_path / "model.gguf"))
    assert found[f"{found['general.architecture']}.context_length"] == length


def test_norms_of_bfloat16_are_shifted_as_float32(build: Callable[[str], Path], tmp_path: Path) -> None:
    path = build("gemma3") / "model.safetensors"
    halved = {key: each.to(torch.bfloat16) for key, each in load_file(path).items()}
    save_file(halved, path, metadata={"format": "pt"})
    tensors = {each.name: each for each in GGUFReader(to_gguf(path.parent, tmp_path / "model.gguf", "BF16")).tensors}
    for place, name in (("blk.3.attn_q_norm", "model.layers.3.self_attn.q_norm"), ("output_norm", "model.norm")):
        wanted = halved[f"{name}.weight"].float() + 1
        np.testing.assert_array_equal(tensors[f"{place}.weight"].data, wanted.numpy())


def test_what_the_file_says(build: Callable[[str], Path], tmp_path: Path) -> None:
    found = metadata(to_gguf(build("mistral-0.3"), tmp_path / "model.gguf"))
    assert found["llama.context_length"] == 128  # llama.cpp attends to all, so it ends where the window does
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("llama", "default")
    assert found["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]  # unknown, control, control, byte


@pytest.mark.parametrize(("name", "said"), [("phi3", True), ("phi4", False)])
def test_the_name_tells_llama_cpp_of_stripping(
    build: Callable[[str], Path], tmp_path: Path, name: str, said: bool
) -> None:
    found = metadata(to_gguf(build(name), tmp_path / "model.gguf"))
    assert ("phi3" in found["general.name"] or "phi-3" in found["general.name"]) == said


def test_positions_and_norms_stay_float32(build: Callable[[str], Path], tmp_path: Path) -> None:
    folder = build("gpt2")
    tensors = {each.name: each for each in GGUFReader(to_gguf(folder, tmp_path / "model.gguf", "F16")).tensors}
    assert tensors["position_embd.weight"].tensor_type.name == "F32"
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "F16"
    wanted = load_file(folder / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"]  # columns first
    np.testing.assert_array_equal(tensors["blk.0.ffn_up.weight"].data, wanted.half().numpy().T)


def test_gpt2_as_the_hub_has_it(build: Callable[[str], Path], run: Any, tmp_path: Path) -> None:
    """Without a prefix in the names, with the masks among the tensors."""
    folder = build("gpt2")
    wanted = reference(folder)
    tensors = {key.removeprefix("transformer."): each for key, each in load_file(folder / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found, _ = run(to_gguf(folder, tmp_path / "model.gguf"), IDS)
    assert np.abs(found - wanted).max() < 2e-2 * wanted.std()


def test_the_rounding_of_gpt2_goes_along_the_files_rows(build: Callable[[str], Path], step: Any) -> None:
    folder = build("gpt2")
    GgufQuantizer(GgufOptions(type="q8_0", threads=1)).quantize(step, Artifact("model/hf", folder, "digest"))
    tensors = {each.name: each for each in GGUFReader(step.output / "model.gguf").tensors}
    stored = tensors["blk.0.ffn_up.weight"]
    name = "transformer.h.0.mlp.c_fc.weight"
    values = load_file(folder / "model.safetensors")[name].numpy()
    rounded = GgufRounding(type("O", (), {"type": "q8_0"})).open(folder).round(name, values)
    np.testing.assert_array_equal(rounded.T, dequantize(stored.data, stored.tensor_type))


@pytest.mark.parametrize(
    ("name", "changed", "match"),
    [
        ("mistral", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("mistral", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("qwen2", {"rope_parameters": {**YARN, "beta_fast": 16}}, "yarn with beta_fast = 16"),
        ("qwen2", {"rope_parameters": {"rope_type": "llama3"}}, "'llama3'.*known: default, linear, yarn"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("smollm3", {"attention_bias": True}, "attention_bias"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 0]}, "every 4th layer"),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}, "every 4th layer"),
        ("phi3", {"rope_parameters": {**LONG, "long_factor": [1.0]}}, "long_factor should be 32 numbers"),
        ("phi3", {"rope_parameters": YARN}, "'yarn'"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "every 6th"),
        ("gemma3", {"query_pre_attn_scalar": 168}, "query_pre_attn_scalar = 168"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
    ],
)
def test_settings_that_llama_cpp_would_not_follow(
    build: Callable[[str], Path], tmp_path: Path, name: str, changed: dict[str, Any], match: str
) -> None:
    path, out = build(name) / "config.json", tmp_path / "out"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    out.mkdir()
    with pytest.raises(DataError, match=match):
        to_gguf(path.parent, out / "model.gguf")
    assert list(out.iterdir()) == []
