"""A tiny random model quantised, saved, loaded by the runtime transformers, and generating, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inhouse.errors import StepError
from inhouse.values import Artifact, Request
from inhouse_bitsandbytes import Options, inhouse_quantizers
from inhouse_bitsandbytes.quantizer import BitsAndBytesQuantizer
from inhouse_transformers import Options as RuntimeOptions
from inhouse_transformers.engine import TransformersRuntime


class FakeStep:
    """What the quantizer uses of a step."""

    def __init__(self, output: Path) -> None:
        output.mkdir(parents=True)
        self.output = output
        self.facts: dict[str, Any] = {}

    def progress(self, done: float, total: float, **_: Any) -> None:
        assert done <= total

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    letters = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**letters, "<s>": 256, "<|end|>": 257}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token="<|end|>",  # noqa: S106
        chat_template="{{ messages[0].content }}",
    ).save_pretrained(folder)
    return folder


def quantize(model: Path, output: Path, **options: Any) -> FakeStep:
    step = FakeStep(output)
    BitsAndBytesQuantizer(Options(**options)).quantize(step, Artifact("model/hf", model, "0"))  # type: ignore[arg-type]
    return step


def test_spec_and_probe() -> None:
    (spec,) = inhouse_quantizers()
    assert spec.produces == ("model/bnb",)
    assert BitsAndBytesQuantizer(Options()).probe() is None


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_quantised_model_generates_and_is_near_the_original(model: Path, tmp_path: Path, kind: str) -> None:
    step = quantize(model, tmp_path / "out", type=kind)
    size = (step.output / "model.safetensors").stat().st_size
    assert step.facts["bytes"] == size
    original = LlamaForCausalLM.from_pretrained(model)
    assert step.facts["parameters"] == sum(p.numel() for p in original.parameters())
    assert step.facts["bits_per_weight"] == pytest.approx(8 * size / step.facts["parameters"], abs=1e-3)
    assert step.facts["bits_per_weight"] < 16
    assert step.facts["quantized_layers"] == 14
    ids = [[256, *range(40, 80)], [256, *range(100, 120)]]
    runtime = TransformersRuntime(RuntimeOptions(device="cpu", dtype="float32"))
    with runtime.open(step.output, context=128) as quantized, runtime.open(model, context=128) as whole:
        got, wanted = (torch.tensor(engine.logprobs(ids)[0]) for engine in (quantized, whole))
        assert not torch.equal(got, wanted)  # or nothing was quantised
        assert (got - wanted).abs().mean() < (0.1 if kind == "int8" else 0.8)
        together = quantized.generate([Request(prompt=p, max_tokens=8) for p in ("shop", "order", "a")])
        single = [quantized.generate([Request(prompt=p, max_tokens=8)])[0] for p in ("shop", "order", "a")]
        if kind != "int8":  # int8 picks its outlier columns from the whole batch
            assert [answer.text for answer in together] == [answer.text for answer in single]
        assert all(answer.completion_tokens for answer in together)


def test_bytes_are_the_same_every_time_and_the_tokenizer_is_unchanged(model: Path, tmp_path: Path) -> None:
    first, second = (quantize(model, tmp_path / name).output for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(names)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (first / name).read_bytes() == (model / name).read_bytes()
    settings = json.loads((first / "config.json").read_text())["quantization_config"]
    assert (settings["bnb_4bit_quant_type"], settings["bnb_4bit_compute_dtype"]) == ("nf4", "bfloat16")


def test_double_quant_is_smaller(model: Path, tmp_path: Path) -> None:
    small, large = (quantize(model, tmp_path / str(double), double_quant=double) for double in (True, False))
    assert small.facts["quantized_layers"] == large.facts["quantized_layers"]
    for step in (small, large):
        loaded = AutoModelForCausalLM.from_pretrained(step.output)
        assert loaded.model.layers[0].mlp.up_proj.weight.quant_state.nested == (step is small)


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(StepError, match="cannot quantise"):
        quantize(tmp_path, tmp_path / "out")
