"""The fast step against plain peft in fp32 on padded batches: losses and adapter gradients."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from inhouse_peft.dropout import Dropout
from inhouse_peft.linear import LoraWeights, lora_group, lora_mlp
from inhouse_peft.patch import speed_up
from inhouse_torch.cross_entropy import head_loss
from inhouse_torch.packing import Sample, pack

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it

SIZES: dict[str, Any] = {
    "vocab_size": 211, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=12),
}


def peft_model(family: str, dropout: float = 0.0, **some: Any) -> Any:
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family]), dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, task_type="CAUSAL_LM", use_rslora=family == "qwen2",
        **{"target_modules": "all-linear", **some},
    )  # fmt: skip
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batch(shared: int = 9) -> list[Sample]:
    draw = random.Random(5)
    prefix = [draw.randrange(211) for _ in range(shared)]
    samples = []
    for number, length in enumerate((14, 7, 21, 3)):
        own = [number] + [draw.randrange(211) for _ in range(length - 1)]
        learn = [False] * (shared + 1) + [draw.random() < 0.6 for _ in range(length - 2)] + [True]
        samples.append(Sample(tuple(prefix + own), tuple(learn)))
    return samples


def gradients(model: Any) -> torch.Tensor:
    found = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    return torch.cat(found)


def padded_loss(model: Any, samples: list[Sample]) -> torch.Tensor:
    longest = max(len(s.ids) for s in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.int64)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        count = len(sample.ids)
        ids[row, :count] = torch.tensor(sample.ids)
        mask[row, :count] = 1
        labels[row, :count] = torch.where(torch.tensor(sample.learn), ids[row, :count], -100)
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def joined_loss(causal: Any, samples: list[Sample]) -> torch.Tensor:
    packed = pack(samples)
    hidden = causal.model(
        input_ids=packed.input_ids, position_ids=packed.positions, segments=packed.segments, use_cache=False
    ).last_hidden_state
    return head_loss(hidden[0, packed.rows], causal.lm_head.weight, packed.targets) / len(packed.rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [0, 9])
def test_loss_and_gradients_equal_plain_peft(family: str, shared: int) -> None:
    model, samples = peft_model(family), batch(shared)
    model.train()
    expected = padded_loss(model, samples)
    expected.backward()
    wanted = gradients(model)
    causal = model.base_model.model
    done = speed_up(causal, Dropout(0.0))
    assert done.linears == 21
    assert done.attentions == (3 if family in ("llama", "qwen2") else 0)
    loss = joined_loss(causal, samples)
    loss.backward()
    found = gradients(model)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.99999
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "some", [{"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["up_proj"], "layers_to_transform": [2]}]
)
def test_adapters_on_some_layers_only(some: dict[str, Any]) -> None:
    model, samples = peft_model("llama", **some), batch()
    padded_loss(model, samples).backward()
    wanted = gradients(model)
    speed_up(model.base_model.model, Dropout(0.0))
    joined_loss(model.base_model.model, samples).backward()
    assert torch.allclose(gradients(model), wanted, rtol=1e-3, atol=1e-6)


def test_long_segments_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from inhouse_torch import attention

    model, samples = peft_model("llama"), batch()
    causal = model.base_model.model
    speed_up(causal, Dropout(0.0))
    joined_loss(causal, samples).backward()
    wanted = gradients(model)
    monkeypatch.setattr(attention, "BLOCK_ROWS", 5)
    monkeypatch.setattr(attention, "KEEP_BYTES", 0)
    joined_loss(causal, samples).backward()
    assert torch.allclose(gradients(model), wanted, rtol=1e-3, atol=1e-7)


def test_dropout_has_peft_statistics_and_depends_on_the_key_only() -> None:
    dropout = Dropout(0.1)
    dropout.begin(1, 2)
    first = dropout.draw(200_000, torch.device("cpu"))
    again = dropout.draw(200_000, torch.device("cpu"))
    dropout.begin(1, 2)
    repeated = dropout.draw(200_000, torch.device("cpu"))
    assert first is not None
    assert again is not None
    assert repeated is not None
    assert torch.equal(first, repeated)
    assert not torch.equal(first, again[: len(first)])
    assert len(first.unique()) / 200_000 == pytest.approx(0.1, abs=0.003)


@pytest.mark.parametrize("mlp", [False, True])
def test_dropout_gradient_is_that_of_its_forward(mlp: bool) -> None:
    """Against autograd through the same formula, written out with the mask of the same draw."""
    torch.manual_seed(0)
    shapes = ((5, 6), (5, 6), (6, 5))
    layers = [
        LoraWeights(torch.randn(n, m), torch.randn(n), torch.randn(2, m), torch.randn(n, 2), 0.5) for n, m in shapes
    ]
    dropout = Dropout(0.4)
    x = torch.randn(7, 6, requires_grad=True)
    tensors = [x, *(t.requires_grad_() for layer in layers for t in (layer.a, layer.b))]

    def dropped(value: torch.Tensor) -> torch.Tensor:
        positions = dropout.draw(value.numel(), value.device)
        assert positions is not None
        mask = torch.ones(value.numel()).index_fill_(0, positions, 0.0).view(value.shape)
        return value * mask * dropout.scale

    def plain(value: torch.Tensor, branch: torch.Tensor, layer: LoraWeights) -> torch.Tensor:
        return value @ layer.weight.t() + layer.bias + layer.scale * branch @ layer.a.t() @ layer.b.t()

    dropout.begin(9)
    branch = dropped(x)
    gate, up = plain(x, branch, layers[0]), plain(x, branch, layers[1])
    inner = torch.nn.functional.silu(gate) * up
    wanted = plain(inner, dropped(inner), layers[2]) if mlp else gate * up
    dropout.begin(9)
    if mlp:
        found = lora_mlp(x, layers[0], layers[1], layers[2], dropout)
    else:
        gate, up = lora_group(x, layers[:2], dropout)
        found = gate * up
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    used = tensors if mlp else tensors[:5]
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), used), torch.autograd.grad(wanted.sum(), used), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_undo_gives_the_models_own_forward_back() -> None:
    model, samples = peft_model("llama"), batch()
    expected = padded_loss(model, samples).item()
    done = speed_up(model.base_model.model, Dropout(0.0))
    done.undo(model.base_model.model)
    assert padded_loss(model, samples).item() == pytest.approx(expected, rel=1e-6)
