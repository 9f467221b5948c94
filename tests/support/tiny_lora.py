"""Tiny random models of several families, LoRA adapters of them with random numbers, and peft's own merge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support.tiny_llama import make_tokenizer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None,
}  # fmt: skip
GPT2 = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "pad_token_id": None}
FAMILIES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "llama": ("Llama", {**SIZES, "tie_word_embeddings": True}, LINEAR),
    "llama-untied": ("Llama", SIZES, [*LINEAR, "lm_head"]),
    "qwen2": ("Qwen2", {**SIZES, "tie_word_embeddings": True}, LINEAR),
    "phi3": ("Phi3", {**SIZES, "num_key_value_heads": 4}, ["qkv_proj", "gate_up_proj", "o_proj", "down_proj"]),
    "gpt2": ("GPT2", GPT2, ["c_attn", "c_proj", "c_fc"]),
}
"""Class, configuration, and what an adapter changes: q and k turned for llama.cpp, several in one, columns first."""


def make_base(folder: Path, name: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    """Random weights, norms and biases too."""
    kind, settings, _ = FAMILIES[name]
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.12) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer(folder, "qwen2")
    return folder


def make_adapter(base: Path, folder: Path, *, copies: bool = False, **settings: Any) -> Path:
    """An adapter as peft saves it, with everything that it trains moved at random; ``copies`` of embeddings too."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(str(folder), save_embedding_layers=copies)
    return folder


def merged_by_peft(base: Path, adapter: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder that peft's merge and transformers' save write."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    return folder


def edit(adapter: Path, **changed: Any) -> None:
    """Other values in adapter_config.json."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def respell(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Lets ``change`` at the adapter's tensors."""
    path = adapter / "adapter_model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path, metadata={"format": "pt"})
