"""What the runtime refuses, and what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from inhouse.errors import DataError, EngineError, RecipeError
from inhouse.values import Message, Request
from inhouse_transformers import Options, inhouse_runtimes
from inhouse_transformers.engine import TransformersRuntime
from inhouse_transformers.load import faster_cpu_dtype


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def opened(folder: Path, context: int = 64) -> None:
    TransformersRuntime(Options(device="cpu")).open(folder, context=context).close()


def test_spec() -> None:
    (spec,) = inhouse_runtimes()
    assert [one.kind for one in spec.consumes] == ["model/hf", "model/bnb"]
    assert spec.features == {"logprobs", "distributions", "stream", "tools"}


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickled weights \(pytorch_model.bin\)"):
        opened(copy)


def test_adapter_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapter"):
        opened(copy)


def test_remote_code_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "mine.py").write_text("raise SystemExit('code of the model ran')")
    with pytest.raises(EngineError, match="cannot load"):
        opened(copy)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [("config.json", "{", "no JSON"), ("config.json", "[]", "no object"), ("model.safetensors", "x", "is damaged")],
)
def test_damaged_files(copy: Path, name: str, content: str, match: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(DataError, match=match) as told:
        opened(copy)
    assert told.value.exit_code == 2


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no config\.json"):
        opened(tmp_path / "none")


def test_context_beyond_the_model(llama: Path) -> None:
    with pytest.raises(RecipeError, match="a context of 4096 tokens, but the model was made for 256"):
        opened(llama, context=4096)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(llama: Path) -> None:
    with pytest.raises(EngineError, match="no GPU"):
        TransformersRuntime(Options(device="cuda")).open(llama, context=64)


def test_probe_names_a_cpu_dtype() -> None:
    assert faster_cpu_dtype() in (torch.float32, torch.bfloat16)


def test_hostile_template_runs_in_a_sandbox(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    engine = TransformersRuntime(Options(device="cpu")).open(copy, context=64)
    with engine, pytest.raises(RecipeError, match="template"):
        engine.render([Message("user", "x")])


def test_no_template(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    engine = TransformersRuntime(Options(device="cpu")).open(copy, context=64)
    with engine, pytest.raises(RecipeError, match="no chat template"):
        engine.generate([Request((Message("user", "x"),))])


def test_tokenize_and_memory(llama: Path) -> None:
    with TransformersRuntime(Options(device="cpu")).open(llama, context=64, threads=1) as engine:
        assert torch.get_num_threads() == 1
        assert engine.tokenize("<|im_start|>the")[0] == 1
        assert engine.memory() > 1 << 20
        assert engine.render([Message("user", "x")], add_generation_prompt=False) == "<|im_start|>user\nx<|im_end|>\n"


def test_a_template_that_never_ends_is_stopped(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inhouse_transformers.engine.SECONDS", 0.3)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (copy / "chat_template.jinja").write_text(loop)
    engine = TransformersRuntime(Options(device="cpu")).open(copy, context=64)
    with engine, pytest.raises(DataError, match=r"did not end within 0\.3 seconds") as told:
        engine.render([Message("user", "x")])
    assert told.value.exit_code == 2
