"""A model from nothing but a corpus: trained, quantised with K-quants, and run by llama.cpp."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from inhouse import Kernel, Recipe
from inhouse.plugins import Registry
from inhouse.values import Message, Request

DESK = Path(__file__).resolve().parents[2] / "contrib" / "recipes" / "service-desk"
PLUGINS = {"builtin", "data", "torch", "gguf", "llamacpp"}
RECIPE = f"""
name = "scratch"
[target]
context = 128
[data]
use = "jsonl"
[data.jsonl]
corpus = "{DESK / "knowledge"}"
[pretrain]
use = "scratch"
[pretrain.scratch]
depth = 1
vocabulary = 600
context = 128
epochs = 6
batch_size = 8
[quantize]
use = "gguf"
[quantize.gguf]
type = "{{type}}"
"""


@pytest.mark.slow
def test_it_is_quantised_and_answers_in_llama_cpp(tmp_path: Path) -> None:
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
    kernel = Kernel(tmp_path / "home", registry=registry)
    texts = {}
    for kind in ("f16", "q4_k_m"):
        recipe = tmp_path / f"{kind}.toml"
        recipe.write_text(RECIPE.format(type=kind))
        run = kernel.run(Recipe.load(recipe, environment={}))
        assert run["pretrain"].meta["final_loss"] < 0.75 * run["pretrain"].meta["losses"][0]
        runtime = registry.get("runtime", "llamacpp")
        with runtime.load()(runtime.spec.options()).open(run["quantize"].path, context=128) as engine:
            found = engine.generate(
                [Request(prompt="You can return", max_tokens=12), Request((Message("user", "Hello"),), max_tokens=4)]
            )
            assert engine.tokenize("48") == [*engine.tokenize("4"), *engine.tokenize("8")]
        texts[kind] = found[0].text
        assert found[0].completion_tokens > 4
        if kind == "q4_k_m":
            assert 4 < run["quantize"].meta["bits_per_weight"] < 6.7  # 256 columns: no matrix falls back
    assert texts["f16"].strip()
    import torch

    from inhouse_torch.folders import load_model, load_tokenizer

    model, tokenizer = load_model(run["pretrain"].path, torch.float32), load_tokenizer(run["pretrain"].path)
    ids = tokenizer("You can return", add_special_tokens=False, return_tensors="pt")["input_ids"]
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert texts["f16"].startswith(tokenizer.decode(made[0, ids.shape[1] : ids.shape[1] + 3]))
