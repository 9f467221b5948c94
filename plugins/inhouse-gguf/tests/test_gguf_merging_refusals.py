"""Adapters that are another base's or cannot be merged: one clear line, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inhouse.errors import DataError
from inhouse_gguf.convert import convert
from support.tiny_llama import make_model
from support.tiny_lora import edit, make_adapter, respell

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it


def quiet(done: int, total: int, name: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embedding and head are one; bfloat16."""
    return make_model(tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter to be spoilt."""
    return make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])


def _refused(adapter: Path, base: Path, tmp_path: Path, match: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=match):
        convert(base, out / "model.gguf", "F16", quiet, adapter)
    assert list(out.iterdir()) == []


def test_shapes_of_another_model(base: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", width=96)
    adapter = make_adapter(other, tmp_path / "adapter", target_modules=["q_proj"])
    _refused(adapter, base, tmp_path, "q_proj is 96 x 96 in the adapter and 256 x 256 in")


def test_layers_that_the_base_does_not_have(base: Path, adapter: Path, tmp_path: Path) -> None:
    def deeper(found: dict[str, torch.Tensor]) -> None:
        for name in [each for each in found if "layers.1." in each]:
            found[name.replace("layers.1.", "layers.7.")] = found.pop(name)

    respell(adapter, deeper)
    _refused(adapter, base, tmp_path, r"layers\.7\.\S+, which .* does not have")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
        ({"use_dora": True}, "no lora_magnitude_vector"),
        ({"bias": "some"}, "bias = 'some'"),
        ({"bias": {}}, "bias = {}"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head"),
        ({"modules_to_save": "lm_head"}, "no list of names"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"something_new": {"a": "b" * 10_000}}, "something_new"),
        ({"init_lora_weights": "pissa"}, "pissa.*changes the base"),
        ({"r": 8}, "rank 8"),
        ({"r": 10**30}, "r = 1000"),
        ({"lora_alpha": float("inf")}, "lora_alpha = inf"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "an expression"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_followed(
    adapter: Path, base: Path, tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    edit(adapter, **changed)
    _refused(adapter, base, tmp_path, match)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"r": ' + "9" * 5000 + "}", '{"r": ' + "[" * 100_000, "\udcff"], ids=range(6)
)
def test_a_config_that_is_none(adapter: Path, base: Path, tmp_path: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    _refused(adapter, base, tmp_path, "JSON|UTF-8")


HEADER = '{"base_model.model.x.lora_A.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": %s}}'


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("not json", "header is broken"),
        ("[" * 100_000, "header is broken"),
        (HEADER % "[0.0, 4.0]", "header is broken|is no integer"),
        (HEADER % "[0, 400]", "outside the file"),
        (HEADER % "[-400, -396]", "outside the file"),
        (HEADER % "{}", "header is broken"),
        (HEADER.replace("[1, 1]", "[0, 1]") % "[0, 4]", "impossible shape"),
        (HEADER.replace("F32", "F8_E4M3") % "[0, 4]", "stored as F8_E4M3"),
    ],
)
def test_a_hostile_safetensors_header(adapter: Path, base: Path, tmp_path: Path, header: str, match: str) -> None:
    text = header.encode()
    (adapter / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    _refused(adapter, base, tmp_path, match)


@pytest.mark.parametrize("keep", [0, 4, 100, -50])
def test_truncated_safetensors(adapter: Path, base: Path, tmp_path: Path, keep: int) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    _refused(adapter, base, tmp_path, "broken|outside the file|nothing in the adapter")


def test_a_pickle(adapter: Path, base: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    _refused(adapter, base, tmp_path, "pickle")


A, B = "base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.model.embed_tokens.lora_embedding_B"


@pytest.mark.parametrize(
    ("added", "match"),
    [
        ({A: (4, 512), B: (256, 4)}, "embed_tokens, and embedding and head are one"),
        ({"base_model.model.lm_head.lora_A.weight": (4, 256)}, "lm_head, and embedding and head are one"),
        ({"base_model.model.lm_head.weight": (512, 256)}, "lm_head, and embedding and head are one"),
        ({"base_model.model.model.norm.weight": (255,)}, "norm.weight is 255 in the adapter and 256 in"),
        ({"base_model.model.model.more.weight": (4,)}, "model.more.weight, which .* does not have"),
        ({"model.norm.weight": (256,)}, "none of a peft adapter's"),
        ({"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight": (4, 256)}, "k_proj has lora_A only"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": (256,)}, "use_dora = False"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_embedding_A": (4, 256)}, "an embedding and more"),
        (
            {"base_model.model.model.norm.lora_A.weight": (4, 4), "base_model.model.model.norm.lora_B.weight": (4, 4)},
            "norm is 4 x 4",
        ),
    ],
    ids=range(10),
)
def test_tensors_that_cannot_be_merged(
    adapter: Path, base: Path, tmp_path: Path, added: dict[str, tuple[int, ...]], match: str
) -> None:
    respell(adapter, lambda found: found.update({name: torch.ones(shape) for name, shape in added.items()}))
    _refused(adapter, base, tmp_path, match)


def test_magnitudes_of_another_number_of_rows(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=True, target_modules=["q_proj"])
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    respell(adapter, lambda found: found.update({name: torch.ones(3)}))
    _refused(adapter, base, tmp_path, "3 magnitudes and 256 rows")


@pytest.mark.parametrize(
    ("value", "match"),
    [(float("nan"), "no numbers"), (float("inf"), "no numbers"), (1e30, "no numbers|beyond float16")],
)
def test_values_that_cannot_be_written(adapter: Path, base: Path, tmp_path: Path, value: float, match: str) -> None:
    respell(adapter, lambda found: [each.fill_(value) for name, each in found.items() if "layers.1." in name])
    _refused(adapter, base, tmp_path, match)


def test_an_empty_adapter(adapter: Path, base: Path, tmp_path: Path) -> None:
    respell(adapter, lambda found: found.clear())
    _refused(adapter, base, tmp_path, "nothing in the adapter")


def test_folders_that_are_no_adapter(adapter: Path, base: Path, tmp_path: Path) -> None:
    for path in (base, tmp_path / "missing", adapter / "adapter_config.json"):
        with pytest.raises(DataError, match="no adapter folder"):
            convert(base, tmp_path / "model.gguf", "F16", quiet, path)
    assert not list(tmp_path.glob("model.gguf*"))
