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


def peft_model(family: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family]), dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM",
        use_rslora=family == "qwen2",
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
    assert first is not None and again is not None and repeated is not None
    assert torch.equal(first, repeated)
    assert not torch.equal(first, again[: len(first)])
    assert len(first.unique()) / 200_000 == pytest.approx(0.1, abs=0.003)


def test_dropout_gradient_is_that_of_its_forward() -> None:
    """Finite differences through one group with a fixed draw."""
    from inhouse_peft.linear import LoraWeights, lora_group

    torch.manual_seed(0)
    layers = [
        LoraWeights(torch.randn(n, 6), torch.randn(n) if n == 5 else None, torch.randn(2, 6), torch.randn(n, 2), 0.5)
        for n in (5, 3)
    ]
    dropout = Dropout(0.4)
    x = torch.randn(4, 6, requires_grad=True)
    for layer in layers:
        layer.a.requires_grad_(), layer.b.requires_grad_()

    def value() -> torch.Tensor:
        dropout.begin(9)
        return torch.stack([(y**2).sum() for y in lora_group(x, layers, dropout)]).sum()

    value().backward()
    for tensor in (x, layers[0].a, layers[1].b):
        flat, grad = tensor.data.view(-1), tensor.grad
        assert grad is not None
        for index in range(0, flat.numel(), 3):
            was, step = float(flat[index]), 1e-3
            with torch.no_grad():
                flat[index] = was + step
                up = value().item()
                flat[index] = was - step
                down = value().item()
                flat[index] = was
            assert float(grad.view(-1)[index]) == pytest.approx((up - down) / (2 * step), rel=2e-2, abs=0.3)


def test_undo_gives_the_models_own_forward_back() -> None:
    model, samples = peft_model("llama"), batch()
    expected = padded_loss(model, samples).item()
    done = speed_up(model.base_model.model, Dropout(0.0))
    done.undo(model.base_model.model)
    assert padded_loss(model, samples).item() == pytest.approx(expected, rel=1e-6)
