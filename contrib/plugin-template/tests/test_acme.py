"""The plugin in the kernel: found by its entry point, chosen by one word, run on a model of two tensors."""

import torch
from safetensors.torch import load_file, save_file

from inhouse import Kernel, Recipe
from inhouse.values import Artifact


def test_acme(tmp_path):
    (tmp_path / "model").mkdir()
    weights = {"w": torch.randn(8, 64, dtype=torch.bfloat16), "norm": torch.ones(64, dtype=torch.bfloat16)}
    save_file(weights, tmp_path / "model" / "model.safetensors")
    tables = {"quantize": {"use": "acme", "acme": {"bits": 3}}, "gates": False}  # two tensors answer nothing
    recipe = Recipe.of(tables, path=tmp_path / "recipe.toml")
    model = Artifact("model/hf", tmp_path / "model", digest="")
    run = Kernel(tmp_path / "home").run(recipe, given={("mine", "model/hf"): model})
    made = load_file(run["quantize"].path / "model.safetensors")
    assert torch.equal(made["norm"], weights["norm"])
    assert max(len(row.unique()) for row in made["w"]) <= 7
    assert (made["w"] - weights["w"]).abs().max() < weights["w"].abs().max() / 3
