"""A fine-tuning that goes on with the weights as the quantize step will store them: its loss is that of the file."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGUFReader

from inhouse import Kernel, Recipe
from inhouse.plugins import Registry
from support.tiny_llama import make_model

PLUGINS = {"builtin", "data", "smollm2", "torch", "peft", "gguf", "llamacpp"}
RECIPE = """
name = "aware"
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
heldout = "heldout.jsonl"
[finetune]
use = "lora"
[finetune.lora]
rank = 8
learning_rate = 5e-3
compute_dtype = "float32"
quantization_aware = "auto"
quantization_aware_epochs = 2
[quantize]
use = "gguf"
[quantize.gguf]
type = "q4_0"
"""


def write_chats(file: Path, count: int, first: int) -> None:
    rows = [
        {"messages": [
            {"role": "user", "content": f"Where is order {number}?"},
            {"role": "assistant", "content": f"It was shipped on {number % 28 + 1} May."},
        ]}
        for number in range(first, first + count)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it
@pytest.mark.slow
def test_the_loss_of_the_training_is_that_of_the_file(tmp_path: Path) -> None:
    make_model(tmp_path / "base", initializer_range=0.05)
    write_chats(tmp_path / "train.jsonl", 24, 100)
    write_chats(tmp_path / "heldout.jsonl", 8, 500)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
    run = Kernel(tmp_path / "home", registry=registry).run(Recipe.load(tmp_path / "recipe.toml", environment={}))
    told = run["finetune"].meta
    assert told["rounded_best_heldout_loss"] < told["rounded_heldout_losses"][0][1] or told["rounded_best_step"] == 6

    from inhouse_gguf.convert import places
    from inhouse_gguf.families import family_of
    from inhouse_gguf.source import open_source
    from inhouse_peft.lora import read_chats
    from inhouse_torch.dense import DenseLinears
    from inhouse_torch.folders import load_model, load_tokenizer
    from inhouse_torch.forward import mean_loss
    from inhouse_torch.patch import speed_up

    (folder,) = (each.path for (name, kind), each in run.products.items() if (name, kind) == ("finetune", "model/hf"))
    source = open_source(folder)
    held = {each.name: each for each in GGUFReader(run["quantize"].path / "model.gguf").tensors}
    model = load_model(folder, torch.float32)
    family = family_of(source)
    with torch.no_grad():
        for name, place in places(source, family).items():
            values = torch.from_numpy(gguf.dequantize(held[place].data, held[place].tensor_type).copy())
            weight = model.get_parameter(name)
            order = torch.from_numpy(family.arrange(source, name, torch.arange(len(weight)).numpy()).copy())
            weight[order] = values.view(weight.shape)
    speed_up(model, DenseLinears())
    chats, _ = read_chats(tmp_path / "heldout.jsonl", load_tokenizer(folder), 128)
    assert mean_loss(model, chats, 4096) == pytest.approx(told["rounded_best_heldout_loss"], rel=1e-4)
