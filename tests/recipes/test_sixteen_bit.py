"""A bundle of the 16-bit model is a folder that plain transformers loads: what vLLM and others start from."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse import Kernel, Recipe
from inhouse.plugins import Registry
from inhouse.values import Message, Request
from support.tiny_llama import make_model

PLUGINS = {"builtin", "data", "smollm2", "torch", "peft", "transformers", "bundle"}
RECIPE = """
name = "sixteen"
[target]
context = 128
[base]
use = "local"
[base.local]
path = "base"
[data]
use = "jsonl"
[data.jsonl]
chat = "train.jsonl"
[finetune]
use = "lora"
[finetune.lora]
rank = 4
learning_rate = 5e-3
compute_dtype = "float32"
[bundle]
use = "folder"
"""
QUESTION = "Where is order 48213?"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it
def test_plain_transformers_loads_it_and_answers_as_our_runtime_does(tmp_path: Path) -> None:
    make_model(tmp_path / "base")
    rows = [
        {"messages": [
            {"role": "user", "content": f"Where is order {number}?"},
            {"role": "assistant", "content": f"It was shipped on {number % 28 + 1} May."},
        ]}
        for number in range(16)
    ]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
    run = Kernel(tmp_path / "home", registry=registry).run(Recipe.load(tmp_path / "recipe.toml", environment={}))
    assert run.record.bundle
    folder = Path(run.record.bundle) / "model"

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).dtype == torch.bfloat16
    before, after = (load_file(each / "model.safetensors") for each in (tmp_path / "base", folder))
    assert before.keys() == after.keys()
    name = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])  # the tuning is merged

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    chat = [{"role": "user", "content": QUESTION}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**asked, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)

    spec = registry.get("runtime", "transformers")
    with spec.load()(spec.spec.options(dtype="float32")).open(folder, context=128) as engine:
        (found,) = engine.generate([Request((Message("user", QUESTION),), max_tokens=12)])
    assert found.text == text
    assert text.strip()
