"""The trainer's adapter/peft artifact in plain peft: on the base it is the merged model, and not the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from inhouse.values import Artifact
from inhouse_peft import Lora
from inhouse_peft.lora import LoraTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it


@pytest.fixture(scope="module")
def half_base(base: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in float16, which the merged model is then stored in: 3 more bits than bfloat16."""
    folder = tmp_path_factory.mktemp("half")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 45).unsqueeze(0)).logits
    return found


@pytest.mark.parametrize(
    "settings",
    [{}, {"rslora": True}, {"dora": True}, {"targets": "q_proj,down_proj"}, {"first_layer": 1}],
    ids=["all-linear", "rslora", "dora", "two-targets", "first-layer"],
)
def test_plain_peft_gives_the_logits_of_the_merged_model(
    make_step: Any, half_base: Path, chats: Path, settings: dict[str, Any]
) -> None:
    step = make_step("a")
    options = Lora(
        rank=4, alpha=8, learning_rate=2e-2, epochs=2, dropout=0.0, evaluations=0, compute_dtype="float32", **settings
    )
    LoraTrainer(options).train(step, Artifact("model/hf", half_base, ""), Artifact("text/chat", chats, ""))
    folder = step.outputs["adapter/peft"]
    assert sorted(each.name for each in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == ""
    before = AutoModelForCausalLM.from_pretrained(half_base, dtype=torch.float32)
    plain = _logits(before)
    tuned = _logits(PeftModel.from_pretrained(before, folder))
    merged = _logits(AutoModelForCausalLM.from_pretrained(step.outputs["model/hf"], dtype=torch.float32))
    size = float(plain.abs().max())
    assert float((tuned - plain).abs().max()) > 0.05 * size
    assert float((tuned - merged).abs().max()) < 5e-3 * size
