"""Training of whole weights through the fast forwards: losses and gradients of transformers' own, and what keeps its own."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Exaone4Config,
    Gemma2Config,
    GemmaConfig,
    GlmConfig,
    LlamaConfig,
    MistralConfig,
    NemotronConfig,
    OlmoConfig,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
    SeedOssConfig,
    StableLmConfig,
)

from inhouse.errors import StepError
from inhouse_torch import attention, cross_entropy, forward, norm
from inhouse_torch.attention import segment_attention
from inhouse_torch.cross_entropy import head_loss
from inhouse_torch.dense import DenseLinears
from inhouse_torch.forward import joined_loss
from inhouse_torch.norm import rms_norm
from inhouse_torch.packing import Sample, Segments, pack
from inhouse_torch.patch import Patched, speed_up

SIZES: dict[str, Any] = {
    "vocab_size": 211, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaConfig(**SIZES, tie_word_embeddings=True), Patched(norms=7, blocks=3, attentions=3)),
    "qwen2": (Qwen2Config(**SIZES, tie_word_embeddings=False), Patched(norms=7, blocks=3, attentions=3)),
    "qwen3": (Qwen3Config(**SIZES), Patched(norms=13, blocks=3)),  # attention has norms inside
    "mistral": (MistralConfig(**SIZES, sliding_window=12), Patched(norms=7, blocks=3)),
    "exaone4": (Exaone4Config(**SIZES), Patched(norms=13, blocks=3)),  # and of queries laid out head by head
    "glm": (GlmConfig(**SIZES, partial_rotary_factor=0.5), Patched(norms=7)),  # rotates half of each head
    "gemma": (GemmaConfig(**SIZES, hidden_activation="gelu_pytorch_tanh"), Patched(attentions=3)),
}


def make(family: str) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family][0]), dtype=torch.float32).train()
    for parameter in model.parameters():  # norms begin at one and biases at zero, which would hide mistakes
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def documents(lengths: tuple[int, ...]) -> list[Sample]:
    draw = random.Random(5)
    rows = [(number, *(draw.randrange(3, 211) for _ in range(length - 1))) for number, length in enumerate(lengths, 3)]
    return [Sample(ids, (True,) * len(ids)) for ids in rows]


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def plain_loss(model: Any, samples: list[Sample]) -> Tensor:
    """Document by document through the model's own code."""
    model.set_attn_implementation("sdpa")
    each = [torch.tensor([sample.ids]) for sample in samples]
    logits = [model(input_ids=ids, use_cache=False).logits[0, :-1] for ids in each]
    return torch.nn.functional.cross_entropy(
        torch.cat(logits), torch.cat([ids[0, 1:] for ids in each]), reduction="sum"
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [(14, 7, 21, 3), (9, 9, 9, 9), (30,)])
def test_loss_and_gradients_are_those_of_transformers(family: str, lengths: tuple[int, ...]) -> None:
    model, samples = make(family), documents(lengths)
    wanted = plain_loss(model, samples)
    wanted.backward()
    theirs = gradients(model)
    assert speed_up(model, DenseLinears()) == FAMILIES[family][1]
    found = joined_loss(model, pack(samples))
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("family", FAMILIES)
def test_products_in_bfloat16_leave_gradients_in_fp32_that_point_the_same_way(family: str) -> None:
    model, samples = make(family), documents((14, 7, 7, 21))
    speed_up(model, DenseLinears())
    exact = joined_loss(model, pack(samples))
    exact.backward()
    wanted = gradients(model)
    rough = joined_loss(model, pack(samples), torch.bfloat16)
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=5e-3)
    assert rough.item() != exact.item()
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), wanted[name].flatten(), dim=0) > 0.995, name


@pytest.mark.parametrize(
    "config",
    [
        StableLmConfig(**SIZES),  # attention of its own
        NemotronConfig(**SIZES),  # calls ours without saying where a text ends
        RecurrentGemmaConfig(**SIZES, lru_width=48),  # what a text leaves behind goes on to the next
    ],
)
def test_a_model_that_mixes_joined_texts_is_refused(config: Any) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    with pytest.raises(StepError, match=r"ForCausalLM does not keep texts of a joined batch apart"):
        speed_up(model, DenseLinears())


@pytest.mark.parametrize(
    ("config", "done"),
    [
        (SeedOssConfig(**SIZES, residual_dropout=0.1), Patched(norms=7)),
        (OlmoConfig(**SIZES, clip_qkv=8.0), Patched(blocks=3)),
        (LlamaConfig(**SIZES, hidden_act="gelu"), Patched(norms=7, attentions=3)),
    ],
)
def test_what_small_numbers_at_rest_do_not_show_keeps_its_own_code(config: Any, done: Patched) -> None:
    """Dropout, clipping, and a block that adds nothing yet."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.zero_()
    assert speed_up(model, DenseLinears()) == done
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("down_proj.weight"))


def test_going_on_from_a_cache_is_refused_by_the_attention_of_joined_batches() -> None:
    model = make("llama").eval()
    speed_up(model, DenseLinears())
    with pytest.raises(StepError, match="goes on from no cache"):
        model.generate(torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3), max_new_tokens=3)


def test_a_model_with_soft_capping_is_refused_in_one_line() -> None:
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES), dtype=torch.float32)
    with pytest.raises(StepError, match=r"Gemma2ForCausalLM cannot be trained: .*does not support"):
        speed_up(model, DenseLinears())


def test_a_model_with_fast_forwards_still_generates_and_gives_them_back() -> None:
    model = make("llama").eval()
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([[5, 6, 7]])
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    wanted = model.generate(ids, **asked)
    done = speed_up(model, DenseLinears())
    model.set_attn_implementation("sdpa")
    assert torch.equal(model.generate(ids, **asked), wanted)
    done.undo(model)
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("bytes_", [1, 400, 1 << 20])
def test_norm_is_that_of_torch_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    monkeypatch.setattr(norm, "PIECE_BYTES", bytes_)
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 16, requires_grad=True), torch.rand(16).requires_grad_()
    slope = torch.randn(2, 5, 16)
    wanted = torch.nn.functional.rms_norm(x, (16,), weight, 1e-5)
    found = rms_norm(x, weight, 1e-5)
    assert torch.allclose(found, wanted, atol=1e-6)
    theirs = torch.autograd.grad(wanted, (x, weight), slope)
    for mine, other in zip(torch.autograd.grad(found, (x, weight), slope), theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("keep", [1, 3000, 4 << 20])
@pytest.mark.parametrize("rows", [4, 256])
def test_segments_of_one_length_together_are_each_alone(monkeypatch: pytest.MonkeyPatch, keep: int, rows: int) -> None:
    monkeypatch.setattr(attention, "KEEP_BYTES", keep)
    monkeypatch.setattr(attention, "BLOCK_ROWS", rows)
    torch.manual_seed(0)
    lengths = (5, 9, 9, 9, 9, 9, 2, 2, 7)
    q, k, v, slope = (torch.randn(sum(lengths), heads, 8) for heads in (6, 2, 2, 6))
    for each in (q, k, v):
        each.requires_grad_()
    joined = segment_attention(q, k, v, Segments(0, lengths), scale=0.3)
    pieces = zip(*(each.split(lengths) for each in (q, k, v)), strict=True)
    alone = torch.cat([segment_attention(*piece, Segments(0, (len(piece[0]),)), scale=0.3) for piece in pieces])
    assert torch.allclose(joined, alone, atol=1e-6)
    wanted = torch.autograd.grad(alone, (q, k, v), slope)
    for mine, other in zip(torch.autograd.grad(joined, (q, k, v), slope), wanted, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_head_loss_under_autocast_multiplies_in_its_format_and_learns_in_fp32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 16, requires_grad=True), torch.randn(90, 16, requires_grad=True)
    targets = torch.randint(0, 90, (40,))
    exact = head_loss(hidden, weight, targets)
    wanted = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rough = head_loss(hidden, weight, targets)
    assert rough.item() != exact.item()
    assert rough.item() == pytest.approx(exact.item(), rel=5e-3)
    for mine, other in zip(torch.autograd.grad(rough, (hidden, weight)), wanted, strict=True):
        assert mine.dtype == torch.float32
        assert torch.cosine_similarity(mine.flatten(), other.flatten(), dim=0) > 0.999


def test_a_heldout_loss_makes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("a product of the backward pass")

    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    targets = torch.tensor([0, 3, 8, 2])
    wanted = head_loss(hidden, weight, targets).item()
    monkeypatch.setattr(torch, "mm", refused)
    monkeypatch.setattr(Tensor, "addmm_", refused)
    with torch.no_grad():
        assert head_loss(hidden, weight, targets).item() == wanted
    with pytest.raises(AssertionError):
        head_loss(hidden, weight, targets)


def test_soft_capping_named_in_a_nested_config_is_seen() -> None:
    head, text = torch.nn.Linear(4, 9, bias=False), SimpleNamespace(final_logit_softcapping=30.0)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    assert not forward._plain_head(model, head)
    text.final_logit_softcapping = None
    assert forward._plain_head(model, head)


def test_blocks_of_the_head_add_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many times the same small gradient as there are blocks: bf16 would stop counting."""
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 1)
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 16).expand(2000, 16), torch.randn(90, 16, requires_grad=True)
    targets = torch.full((2000,), 7)
    (wanted,) = torch.autograd.grad(head_loss(hidden, weight, targets), weight)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head_loss(hidden, weight, targets)
    (found,) = torch.autograd.grad(rough, weight)
    assert torch.allclose(found, wanted, rtol=0.03, atol=0.03 * float(wanted.abs().max()))
