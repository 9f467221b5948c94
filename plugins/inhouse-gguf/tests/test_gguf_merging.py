"""A base converted with an adapter is what peft's merged folder is converted to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from gguf import GGUFReader
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from inhouse import codec
from inhouse.artifacts import Manifest, Product
from inhouse.errors import DataError
from inhouse.values import Artifact
from inhouse_gguf import GgufOptions
from inhouse_gguf.convert import convert
from inhouse_gguf.facts import metadata
from inhouse_gguf.quantizer import GgufQuantizer
from inhouse_gguf.trained import trained_on
from support.console import here
from support.tiny_llama import make_model
from support.tiny_lora import FAMILIES, make_adapter, make_base, merged_by_peft, respell

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's use of it
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]


def quiet(done: int, total: int, name: str) -> None:
    """No progress."""


def tensors(path: Path) -> dict[str, NDArray[Any]]:
    """By name; bfloat16 as its bits."""
    found = {each.name: (each.tensor_type.name, each.data) for each in GGUFReader(path).tensors}
    return {name: data.view(np.uint16) if kind == "BF16" else data for name, (kind, data) in found.items()}


def both(base: Path, adapter: Path, scratch: Path, wanted: str) -> tuple[dict[str, NDArray[Any]], ...]:
    """Tensors of the base with the adapter in one pass, of peft's merged folder, and of the base."""
    dtype = torch.bfloat16 if wanted == "BF16" else torch.float32
    convert(base, scratch / "ours.gguf", wanted, quiet, adapter)
    convert(merged_by_peft(base, adapter, scratch / "merged", dtype), scratch / "theirs.gguf", wanted, quiet)
    convert(base, scratch / "base.gguf", wanted, quiet)
    ours, theirs = (metadata(scratch / f"{each}.gguf") for each in ("ours", "theirs"))
    assert {**ours, "general.name": ""} == {**theirs, "general.name": ""}
    return tuple(tensors(scratch / f"{each}.gguf") for each in ("ours", "theirs", "base"))


def _equal(base: Path, adapter: Path, scratch: Path, changed: int) -> None:
    """The same float32 numbers but for the order of sums; ``changed`` tensors are not the base's."""
    ours, theirs, before = both(base, adapter, scratch, "F32")
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=2e-6, atol=1e-6, err_msg=name)
    assert sum(np.abs(values - before[name]).max() > 0.01 for name, values in ours.items()) == changed


@pytest.mark.parametrize("name", FAMILIES)
def test_one_pass_gives_what_peft_merges(tmp_path: Path, name: str) -> None:
    targets = FAMILIES[name][2]
    base = make_base(tmp_path / "base", name)
    conv = {"fan_in_fan_out": True} if name == "gpt2" else {}
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=targets, **conv)
    matrices = {"phi3": 4, "gpt2": 4}.get(name, 7)
    _equal(base, adapter, tmp_path, 2 * matrices + ("lm_head" in targets))


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3"])
def test_bfloat16_is_rounded_once(tmp_path: Path, name: str) -> None:
    base = make_base(tmp_path / "base", name, torch.bfloat16)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=FAMILIES[name][2])
    ours, theirs, _ = both(base, adapter, tmp_path, "BF16")
    different = total = 0
    for each, values in ours.items():
        apart = np.abs(values.astype(np.int64) - theirs[each].astype(np.int64)) if values.dtype == np.uint16 else None
        if apart is None:
            np.testing.assert_array_equal(values, theirs[each])
        else:
            assert apart.max() <= 1, each  # float32 sums on two sides of a tie
            different, total = different + int((apart > 0).sum()), total + apart.size
    assert different < 1e-3 * total


def test_the_trainers_merge_gives_the_same(tmp_path: Path) -> None:
    from inhouse_peft.qlora import merge_into
    from inhouse_torch.folders import save_model

    base = make_base(tmp_path / "base", "llama", torch.bfloat16)
    adapter = make_adapter(base, tmp_path / "adapter", use_rslora=True)
    merged = tmp_path / "merged"
    save_model(merge_into(base, adapter), base, merged, torch.bfloat16)
    convert(base, tmp_path / "ours.gguf", "BF16", quiet, adapter)
    convert(merged, tmp_path / "theirs.gguf", "BF16", quiet)
    ours, theirs = tensors(tmp_path / "ours.gguf"), tensors(tmp_path / "theirs.gguf")
    apart = [np.abs(ours[name].astype(np.float64) - theirs[name].astype(np.float64)) for name in ours]
    assert max(float(each.max()) for each in apart) <= 1  # bits of bfloat16
    assert sum(int((each > 0).sum()) for each in apart) < 1e-3 * sum(each.size for each in apart)


@pytest.mark.parametrize(
    ("name", "settings", "changed"),
    [
        ("llama", {"use_rslora": True}, 14),
        (
            "llama",
            {"rank_pattern": {"q_proj": 8, "^model.layers.1.mlp.up_proj": 2}, "alpha_pattern": {"v_proj": 24}},
            14,
        ),
        ("llama", {"rank_pattern": {"layers.0.self_attn.o_proj": 16}, "use_rslora": True}, 14),
        ("llama", {"use_dora": True}, 14),
        ("llama", {"use_dora": True, "target_modules": ["k_proj"]}, 2),
        ("phi3", {"use_dora": True, "target_modules": ["qkv_proj"]}, 2),
        ("gpt2", {"use_dora": True, "target_modules": ["c_fc"], "fan_in_fan_out": True}, 2),
        ("qwen2", {"bias": "lora_only", "target_modules": ["q_proj"]}, 4),
        ("gpt2", {"bias": "all", "target_modules": ["c_attn"], "fan_in_fan_out": True}, 2 + 2 * 6 + 1),
        ("llama-untied", {"modules_to_save": ["lm_head", "norm"], "target_modules": ["q_proj"]}, 8),
        ("llama-untied", {"target_modules": ["q_proj", "embed_tokens"]}, 3),
        ("llama-untied", {"target_modules": ["q_proj", "embed_tokens"], "copies": True}, 3),
        ("llama-untied", {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]}, 3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_kinds_of_lora(tmp_path: Path, name: str, settings: dict[str, Any], changed: int) -> None:
    base = make_base(tmp_path / "base", name)
    _equal(base, make_adapter(base, tmp_path / "adapter", **settings), tmp_path, changed)


def test_gpt2_as_the_hub_has_it(tmp_path: Path) -> None:
    """Without a prefix in the base's names."""
    base = make_base(tmp_path / "base", "gpt2")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    convert(base, tmp_path / "wanted.gguf", "F32", quiet, adapter)
    path = base / "model.safetensors"
    bare = {name.removeprefix("transformer."): each for name, each in load_file(path).items()}
    save_file(bare, path, metadata={"format": "pt"})
    convert(base, tmp_path / "model.gguf", "F32", quiet, adapter)
    found, wanted = tensors(tmp_path / "model.gguf"), tensors(tmp_path / "wanted.gguf")
    assert found.keys() == wanted.keys()
    assert all((found[name] == wanted[name]).all() for name in found)


def test_an_adapter_of_16_bits(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    save_file({name: each.bfloat16() for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    _equal(base, adapter, tmp_path, 14)


# --- the quantizer ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 columns: a multiple of the K-quants' block; bfloat16."""
    return make_model(tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter to be spoilt."""
    return make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])


def _quantize(step: Any, base: Path, adapter: Path | None, type: str, digest: str = "digest") -> Path:
    options = GgufOptions(type=type, threads=1, adapter=adapter)
    GgufQuantizer(options).quantize(step, Artifact("model/hf", base, digest))
    return Path(step.output / "model.gguf")


def _fresh(step: Any, folder: Path) -> Any:
    for name in ("output", "checkpoints"):
        (folder / name).mkdir(parents=True)
    return evolve(step, output=folder / "output", checkpoints=folder / "checkpoints", facts={}, told=[])


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0", "q4_k_m"])
def test_every_type_is_made_from_the_merged_weights(
    step: Any, base: Path, adapter: Path, tmp_path: Path, type: str
) -> None:
    merged = merged_by_peft(base, adapter, tmp_path / "merged", torch.bfloat16)
    ours = tensors(_quantize(step, base, adapter, type))
    theirs = tensors(_quantize(_fresh(step, tmp_path / "a"), merged, None, type))
    plain = tensors(_quantize(_fresh(step, tmp_path / "b"), base, None, type))
    assert step.facts["type"] == type
    assert list(step.output.iterdir()) == [step.output / "model.gguf"]
    for name, values in ours.items():
        changed = "attn_q" in name or "ffn_down" in name
        assert (values.tobytes() != plain[name].tobytes()) == changed, name
        if not changed:
            assert values.tobytes() == theirs[name].tobytes()
        elif type != "f16":  # which keeps what bfloat16 loses
            assert np.mean(values.reshape(-1) != theirs[name].reshape(-1)) < 0.01, name


@pytest.mark.parametrize("stop_at", ["converting blk.1", "quantising blk.1"])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    step: Any, base: Path, adapter: Path, tmp_path: Path, stop_at: str
) -> None:
    wanted = _quantize(_fresh(step, tmp_path / "whole"), base, adapter, "q8_0").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        _quantize(evolve(step, stop_at=stop_at), base, adapter, "q8_0")
    assert not (step.output / "model.gguf").exists()
    assert _quantize(evolve(step, told=[]), base, adapter, "q8_0").read_bytes() == wanted


KILLED = """
import os, sys
from pathlib import Path
from inhouse_gguf.convert import convert
def tell(done, total, name):
    if name.startswith("blk.1.ffn_down"):
        os.kill(os.getpid(), 9)
convert(Path(sys.argv[1]), Path(sys.argv[3]), "BF16", tell, Path(sys.argv[2]))
"""


def test_killed_in_the_middle_nothing_has_the_files_name(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", KILLED, str(base), str(adapter), str(out / "model.gguf")]
    assert subprocess.run(command, check=False).returncode == -9
    assert [each.name for each in out.iterdir()] == ["model.gguf.part"]
    convert(base, out / "model.gguf", "BF16", quiet, adapter)  # over what is left
    assert [each.name for each in out.iterdir()] == ["model.gguf"]
    convert(base, tmp_path / "wanted.gguf", "BF16", quiet, adapter)
    assert (out / "model.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


def test_the_command_line(base: Path, adapter: Path, tmp_path: Path) -> None:
    command = ["step", "quantizer", "gguf", str(base), "--adapter", str(adapter), "--type", "bf16"]
    made = here([*command, "--output", "made"], tmp_path, {"inhouse-gguf": "inhouse_gguf"})
    assert made.returncode == 0, made.stderr
    convert(base, tmp_path / "wanted.gguf", "BF16", quiet, adapter)
    assert (tmp_path / "made" / "model.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()
    respell(adapter, lambda found: found[sorted(found)[0]].fill_(float("nan")))
    made = here([*command, "--output", "bad"], tmp_path, {"inhouse-gguf": "inhouse_gguf"})
    assert made.returncode == 2
    assert "no numbers" in made.stderr
    assert not (tmp_path / "bad").exists()


def test_options_that_exclude_each_other(step: Any, adapter: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto compares"):
        GgufOptions(type="auto", adapter=adapter)
    other = Path(shutil.copytree(base, tmp_path / "other"))
    content = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**content, "architectures": ["MambaForCausalLM"]}))
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("raise SystemExit(1)")
    options = GgufOptions(type="bf16", adapter=adapter, converter=script)
    with pytest.raises(DataError, match=r"convert_hf_to_gguf\.py .* cannot merge an adapter"):
        GgufQuantizer(options).quantize(step, Artifact("model/hf", other, "digest"))


# --- another base -------------------------------------------------------------------------------------


def _in_a_store(adapter: Path, home: Path, parents: tuple[str, ...]) -> Path:
    """The adapter as a product of a trainer step in a store."""
    folder = Path(shutil.copytree(adapter, home / "artifacts" / "f00d" / "adapter-peft"))
    manifest = Manifest(
        fingerprint="f00d", step="finetune", stage="trainer", backend="lora", plugin="inhouse-peft 0.1.0", version=4,
        options={}, seed=7, parents=parents, seconds=1.0, peak_memory_bytes=1,
        products=(Product("adapter/peft", "adapter-peft", "0" * 64, ()),),
    )  # fmt: skip
    (folder.parent / "manifest.json").write_text(codec.dumps(manifest))
    return folder


def test_a_base_of_another_digest_is_refused(step: Any, base: Path, adapter: Path, tmp_path: Path) -> None:
    kept = _in_a_store(adapter, tmp_path / "home", ("base:model/hf:aaaa1111", "data:text/chat:bbbb"))
    assert trained_on(kept) == ("aaaa1111",)
    with pytest.raises(DataError, match=r"another model \(digest aaaa1111\) than .* \(cccc2222\)"):
        _quantize(step, base, kept, "bf16", "cccc2222")
    assert list(step.output.iterdir()) == []
    assert _quantize(step, base, kept, "bf16", "aaaa1111").exists()


def test_where_nothing_is_known_the_shapes_decide(adapter: Path, tmp_path: Path) -> None:
    assert trained_on(adapter) == ()
    kept = _in_a_store(adapter, tmp_path / "home", ("base:model/hf:aaaa1111",))
    for content in ("", "{}", "[" * 100_000, '{"fingerprint": 1}'):
        (kept.parent / "manifest.json").write_text(content)
        assert trained_on(kept) == ()


def test_the_same_bytes_again(adapter: Path, base: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(base, tmp_path / name, "F16", quiet, adapter)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
