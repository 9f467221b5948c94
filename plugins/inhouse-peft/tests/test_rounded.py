"""Training with the weights as a quantised file holds them: exact without rounding, straight through with it, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define
from safetensors.torch import load_file

from inhouse.errors import RecipeError
from inhouse.values import Artifact
from inhouse_peft import Lora
from inhouse_peft.adapter import add_adapter
from inhouse_peft.lora import LoraTask, LoraTrainer, RoundedTask, read_chats
from inhouse_peft.merged import RoundedModel
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_repeats, check_resumes
from inhouse_torch.dense import DenseLinears
from inhouse_torch.folders import load_model, load_tokenizer
from inhouse_torch.forward import joined_losses
from inhouse_torch.patch import speed_up

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it
KINDS = ("model/hf", "adapter/peft")
OPTIONS: dict[str, Any] = {
    "rank": 4, "alpha": 8, "learning_rate": 5e-3, "batch_size": 4, "epochs": 1, "evaluations": 2, "patience": 0,
    "dropout": 0.1, "compute_dtype": "float32", "quantization_aware": "grid", "quantization_aware_epochs": 2,
}  # fmt: skip


@define
class Grid:
    """A rounding to multiples of ``width``; 0 changes nothing."""

    width: float
    every: int = 1
    names: set[str] | None = None

    def open(self, folder: Path) -> Grid:
        self.names = set()
        return self

    def round(self, name: str, values: Any) -> Any:
        assert self.names is not None
        self.names.add(name)
        assert values.dtype == np.float32
        assert np.array_equal(values, torch.from_numpy(values).bfloat16().float().numpy()), "not as it is saved"
        return np.round(values / self.width) * np.float32(self.width) if self.width else values


def train(step: RecordingStep, base: Path, chats: Path, grid: Grid, **changed: Any) -> RecordingStep:
    step.services["quantization_aware"] = grid
    trainer = LoraTrainer(Lora(**{**OPTIONS, **changed}))
    trainer.train(step, Artifact("model/hf", base, ""), Artifact("text/chat", chats, ""))  # type: ignore[arg-type]
    return step


def tasks(base: Path, chats: Path, grid: Grid, dtype: torch.dtype = torch.float32) -> tuple[LoraTask, RoundedTask]:
    """The same adapter, not zero, trained as it is and with rounding."""
    samples, _ = read_chats(chats / "train.jsonl", load_tokenizer(base), 256)
    options = Lora(rank=4, dropout=0.0)
    models = [add_adapter(load_model(base, dtype), options, 3) for _ in range(2)]
    for model in models:
        for name, each in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(each, std=0.05, generator=torch.Generator().manual_seed(4))
    plain = LoraTask(models[0], samples, samples[:4], options)
    weights = RoundedModel(models[1].get_base_model(), grid.open(base), torch.bfloat16)
    return plain, RoundedTask(models[1], samples, samples[:4], options, weights)


def gradients(task: LoraTask) -> tuple[float, dict[str, torch.Tensor]]:
    task.begin(7, 0)
    total = 0.0
    for loss in task.losses([0, 1, 2, 3]):
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, {name: each.grad for name, each in task.parameters.items() if each.grad is not None}


def test_without_rounding_losses_and_gradients_are_those_of_the_adapter(base: Path, chats: Path) -> None:
    plain, rounded = tasks(base, chats, Grid(0.0))
    assert rounded.patched.attentions == plain.patched.attentions == 2
    assert rounded.patched.blocks == 2
    (loss, wanted), (other, found) = gradients(plain), gradients(rounded)
    assert other == pytest.approx(loss, rel=2e-3)  # the merged weight is saved in bf16
    assert wanted.keys() == found.keys()
    for name, each in wanted.items():
        assert torch.cosine_similarity(each.flatten(), found[name].flatten(), dim=0) > 0.999, name


def test_the_forward_sees_rounded_weights_and_the_gradient_passes_straight_through(base: Path, chats: Path) -> None:
    """Against a plain model that holds the rounded weights: its loss, and its weights' gradients taken on to A and B."""
    grid = Grid(0.02)
    plain, rounded = tasks(base, chats, grid)
    layers = rounded._weights.layers
    model = load_model(base, torch.float32)
    with torch.no_grad():
        for layer in layers:
            weight = model.get_parameter(layer.name)
            merged = (weight + layer.weights.scale * layer.weights.b @ layer.weights.a).bfloat16().float()
            weight.copy_(torch.from_numpy(grid.round(layer.name, merged.numpy())))
        table = model.get_input_embeddings().weight
        table.copy_(torch.from_numpy(grid.round("model.embed_tokens.weight", table.numpy())))
    speed_up(model, DenseLinears())
    samples, _ = read_chats(chats / "train.jsonl", load_tokenizer(base), 256)
    (loss,) = joined_losses(model, samples[:4], 4096)
    loss.backward()  # type: ignore[no-untyped-call]
    total, found = gradients(rounded)
    assert total == pytest.approx(loss.item(), rel=1e-5)
    assert abs(total - gradients(plain)[0]) > 1e-3 * total
    for layer in layers:
        slope, scale = model.get_parameter(layer.name).grad, layer.weights.scale
        a, b = layer.weights.a.detach(), layer.weights.b.detach()
        name = f"base_model.model.{layer.name.removesuffix('.weight')}.lora_{{}}.default.weight"
        for mine, wanted in ((found[name.format("A")], b.t() @ slope), (found[name.format("B")], slope @ a.t())):
            assert torch.allclose(mine, scale * wanted, rtol=1e-3, atol=1e-5 * float(mine.abs().max())), layer.name


def test_every_weight_that_a_file_holds_is_rounded_under_its_name(make_step: Any, base: Path, chats: Path) -> None:
    grid = Grid(0.01)
    step = train(make_step("a"), base, chats, grid, first_layer=1)
    (file,) = base.glob("*.safetensors")
    assert grid.names == {name for name, each in load_file(file).items() if each.dim() == 2}
    assert step.facts["rounded_steps"] == 12
    assert step.facts["steps"] == 6
    assert [at for at, _ in step.losses] == list(range(1, 19))


def test_what_is_written_is_the_merge_without_rounding(make_step: Any, base: Path, chats: Path) -> None:
    step = train(make_step("a"), base, chats, Grid(0.02), targets="q_proj")
    (file,) = base.glob("*.safetensors")
    (made,) = step.outputs["model/hf"].glob("*.safetensors")
    before, after = load_file(file), load_file(made)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{n}.self_attn.q_proj.weight" for n in range(2)}


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("killed_at", [3, 6, 9, 12, 15])
def test_killed_and_resumed_is_the_run_that_was_not(
    tmp_path: Path, base: Path, chats: Path, killed_at: int, every: int
) -> None:
    check_resumes(
        lambda step: train(step, base, chats, Grid(0.02, every)) and None, tmp_path, *KINDS, kill_at=killed_at
    )


def test_the_same_bits_twice(tmp_path: Path, base: Path, chats: Path) -> None:
    check_repeats(lambda step: train(step, base, chats, Grid(0.02, 4)) and None, tmp_path, *KINDS)


@pytest.mark.parametrize(("asked", "wanted"), [(0.0, 2.5e-3), (1e-3, 1e-3)])
def test_the_rounded_part_has_a_learning_rate_of_its_own(
    make_step: Any, base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch, asked: float, wanted: float
) -> None:
    rates = []
    monkeypatch.setattr(
        RecordingStep, "metric", lambda self, name, value, at: rates.append(value) if name == "learning_rate" else None
    )
    changed = {"quantization_aware_learning_rate": asked, "warmup": 0.0, "decay": "constant"}
    train(make_step("a"), base, chats, Grid(0.01), **changed)
    assert sorted(set(rates), reverse=True) == [5e-3, wanted]


@pytest.mark.parametrize("option", [{"dora": True}, {"quantized_base": "nf4"}])
def test_what_cannot_be_merged_is_refused_before_any_step(make_step: Any, base: Path, chats: Path, option: Any) -> None:
    step = make_step("a")
    with pytest.raises(RecipeError, match="plain LoRA layer"):
        train(step, base, chats, Grid(0.02), **option)
    assert not step.losses


def test_what_cannot_be_merged_is_told_before_any_work() -> None:
    for option in ({"dora": True}, {"quantized_base": "nf4"}):
        assert "quantization_aware merges" in str(LoraTrainer(Lora(**{**OPTIONS, **option})).probe())
    assert LoraTrainer(Lora(**OPTIONS)).probe() is None
