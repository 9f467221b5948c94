"""The numbers: what is lost, against plain rounding; packed and unpacked; saved and opened again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from inhouse_sample_hqq import BITS, QuantizerOptions
from inhouse_sample_hqq.hqq import dequantize, pack, quantize, unpack
from inhouse_sample_hqq.layers import HqqLinear
from inhouse_sample_hqq.quantizer import HqqQuantizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from inhouse.errors import StepError
from inhouse.values import Artifact
from inhouse_testing.recording import RecordingStep

SIZE = 64


def heavy(rows: int = 256, columns: int = 512) -> torch.Tensor:
    """Weights as in real layers, most of them small and some very large: Student's t with 3 degrees of freedom."""
    generator = torch.Generator().manual_seed(7)
    normal, *others = torch.randn(4, rows, columns, generator=generator)
    return 0.02 * normal / (sum(each**2 for each in others) / 3).sqrt()


def rounded(weight: torch.Tensor, bits: int, *, whole: bool) -> torch.Tensor:
    """Plain rounding to nearest between a group's minimum and maximum; ``whole``: the zero point is a level."""
    groups = weight.reshape(-1, SIZE)
    low, high = groups.aminmax(dim=1, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round() if whole else -low / scale
    levels = (groups / scale + zero).round().clamp(0, 2**bits - 1)
    return ((levels - zero) * scale).reshape(weight.shape)


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_less_is_lost_than_by_rounding(bits: int, whole: bool) -> None:
    weight = heavy()
    ours = (dequantize(*quantize(weight, bits, SIZE)) - weight).abs()
    plain = (rounded(weight, bits, whole=whole) - weight).abs()
    assert ours.mean() < plain.mean()
    assert ours.pow(0.7).mean() < plain.pow(0.7).mean()


def test_eight_bits_lose_half_a_step_at_most() -> None:
    weight = heavy()
    levels, scale, offset = quantize(weight, 8, SIZE)
    step = scale.float().repeat_interleave(SIZE, dim=1)
    lost = (dequantize(levels, scale, offset) - weight).abs()
    assert (lost / step).quantile(0.99) < 0.51


def test_groups_of_one_value_are_kept() -> None:
    weight = torch.tensor([0.0, 0.25, -3.0, 1e-9]).repeat_interleave(16).reshape(2, 32)
    assert torch.allclose(dequantize(*quantize(weight, 2, 16)), weight, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_is_no_weight_is_refused(bad: float) -> None:
    weight = torch.ones(2, 64)
    weight[1, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(weight, 4, 64)


@pytest.mark.parametrize("bits", BITS)
def test_unpacking_is_the_inverse_of_packing(bits: int) -> None:
    levels = torch.randint(0, 2**bits, (5, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    packed = pack(levels, bits)
    assert packed.shape == (5, 48 * bits // 8)
    assert torch.equal(unpack(packed, bits), levels)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random model of two layers, in bfloat16."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        attention_bias=True,
        tie_word_embeddings=True,
    )
    made = LlamaForCausalLM(config).to(torch.bfloat16)
    for name, bias in made.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(bias)
    made.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    return tmp_path / "model"


def run(model: Path, folder: Path, **options: int) -> RecordingStep:
    """The quantizer on ``model``."""
    step = RecordingStep.at(folder, "model/hqq")
    HqqQuantizer(QuantizerOptions(**options)).quantize(step, Artifact("model/hf", model, "0"))
    return step


def logits(model: nn.Module) -> torch.Tensor:
    """Of some tokens, in float32."""
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits.float()
    return found


@pytest.mark.parametrize("bits", BITS)
def test_saved_and_opened_it_gives_the_same_logits(model: Path, tmp_path: Path, bits: int) -> None:
    original = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    whole = logits(original)
    head = original.get_output_embeddings()
    names = [name for name, each in original.named_modules() if type(each) is nn.Linear and each is not head]
    for name in names:
        original.set_submodule(name, HqqLinear.of(original.get_submodule(name), bits, 32))
    step = run(model, tmp_path / "out", bits=bits, group_size=32)
    opened = AutoModelForCausalLM.from_pretrained(step.output, dtype=torch.float32)
    packed = [name for name, each in opened.named_modules() if isinstance(each, HqqLinear)]
    assert packed == names
    assert torch.equal(logits(opened), logits(original))
    lost = (logits(opened) - whole).abs().mean() / whole.abs().mean()
    assert 0 < lost < {8: 0.02, 4: 0.3, 3: 0.6, 2: 1.5}[bits]
    assert step.facts["type"] == f"hqq{bits}"
    assert step.facts["quantized_layers"] == len(names) == 14
    size = (step.output / "model.safetensors").stat().st_size
    assert step.facts["bits_per_weight"] == pytest.approx(8 * size / step.facts["parameters"], abs=1e-3)


def test_opened_in_sixteen_bits_the_scales_stay_as_written(model: Path, tmp_path: Path) -> None:
    step = run(model, tmp_path / "out")
    opened = AutoModelForCausalLM.from_pretrained(step.output, dtype=torch.bfloat16)
    written = load_file(step.output / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(opened.get_submodule(name).scale, written[f"{name}.scale"])
    assert opened.get_submodule(name).scale.dtype == torch.float16
    assert logits(opened).isfinite().all()


def test_layers_that_no_group_divides_stay_as_they_are(model: Path, tmp_path: Path) -> None:
    step = run(model, tmp_path / "out", group_size=64)
    assert step.facts["quantized_layers"] == 12
    assert "2 layers stay as they are: 64 does not divide their width (model.layers.0.mlp.down_proj" in step.notices[0]
    name = "model.layers.1.mlp.down_proj.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (model, step.output))
    assert torch.equal(before, after)
    assert logits(AutoModelForCausalLM.from_pretrained(step.output)).isfinite().all()


def test_what_cannot_be_quantised_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no linear layer that is cut into groups of 128"):
        run(model, tmp_path / "out", group_size=128)
    with pytest.raises(StepError, match="quantised already"):
        run(run(model, tmp_path / "once").output, tmp_path / "twice")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.self_attn.k_proj.weight"][2, 3] = torch.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StepError, match=r"layers\.1\.self_attn\.k_proj holds weights that are not finite"):
        run(model, tmp_path / "nan", group_size=32)
    (model / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(StepError, match="cannot open the model"):
        run(model, tmp_path / "damaged")


@pytest.mark.parametrize("part", ["packed", "scale", "offset"])
def test_a_file_that_lacks_a_tensor_is_refused(model: Path, tmp_path: Path, part: str) -> None:
    step = run(model, tmp_path / "out", group_size=32)
    tensors = load_file(step.output / "model.safetensors")
    del tensors[f"model.layers.0.mlp.up_proj.{part}"]
    save_file(tensors, step.output / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="packed layers"):
        AutoModelForCausalLM.from_pretrained(step.output)
