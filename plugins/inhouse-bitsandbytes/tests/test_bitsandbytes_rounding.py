"""Rounding: bit for bit what the written model holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from inhouse.errors import DataError
from inhouse.values import Artifact
from inhouse_bitsandbytes import Options
from inhouse_bitsandbytes.quantizer import BitsAndBytesQuantizer
from inhouse_bitsandbytes.rounding import BitsAndBytesRounding
from inhouse_testing.recording import RecordingStep
from support.tiny_llama import make_model


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_every_tensor_is_what_the_written_model_holds(tmp_path: Path, kind: Any) -> None:
    from bitsandbytes.functional import dequantize_4bit

    folder = make_model(tmp_path / "hf")
    step = RecordingStep.at(tmp_path / "made", "model/bnb")
    BitsAndBytesQuantizer(Options(type=kind)).quantize(step, Artifact("model/hf", folder, ""))  # type: ignore[arg-type]
    held = AutoModelForCausalLM.from_pretrained(step.output, device_map={"": "cpu"})
    rounded = BitsAndBytesRounding(SimpleNamespace(type=kind)).open(folder)
    quantised = 0
    (file,) = folder.glob("*.safetensors")
    for name, values in load_file(file).items():
        weight = held.get_parameter(name)
        wanted = weight.data
        if hasattr(weight, "quant_state"):
            wanted = dequantize_4bit(weight.data, weight.quant_state)
            quantised += 1
        found = rounded.round(name, values.float().numpy())
        assert np.array_equal(found, wanted.float().numpy().reshape(found.shape)), name
    assert quantised == 14  # 7 in each of 2 layers


def test_a_tensor_that_is_not_there_is_told(tmp_path: Path) -> None:
    rounded = BitsAndBytesRounding(SimpleNamespace(type="nf4")).open(make_model(tmp_path / "hf"))
    with pytest.raises(DataError, match=r"no tensor model\.nowhere\.weight"):
        rounded.round("model.nowhere.weight", torch.zeros(64, 64).numpy())


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model that transformers knows"):
        BitsAndBytesRounding(SimpleNamespace(type="nf4")).open(tmp_path)
