"""A GGUF adapter on the base's GGUF computes in llama.cpp what peft computes; what it cannot say is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFReader
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from inhouse import QuantizerSpec
from inhouse.errors import DataError
from inhouse.kernel import Kernel
from inhouse.recipe import Recipe
from inhouse.values import Artifact
from inhouse_gguf import AdapterOptions, inhouse_quantizers
from inhouse_gguf.adapter import convert_adapter
from inhouse_gguf.convert import convert
from inhouse_gguf.facts import metadata
from inhouse_gguf.families import FAMILIES, Family, decoder_parameters
from inhouse_gguf.quantizer import GgufAdapterQuantizer
from support.tiny_llama import make_model, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it

IDS = torch.randint(3, 500, (80,), generator=torch.Generator().manual_seed(1)).tolist()
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DESK = Path(__file__).resolve().parents[3] / "contrib" / "recipes" / "service-desk" / "recipe.toml"

CHILD = """
import ctypes, json, sys
import numpy as np
import llama_cpp.llama_cpp as llama
base, adapter, target, ids = json.loads(sys.stdin.readline())
llama.llama_backend_init()
params = llama.llama_model_default_params()
params.use_extra_bufts = False
model = llama.llama_model_load_from_file(base.encode(), params)
params = llama.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 256
params.n_threads = params.n_threads_batch = 1
context = llama.llama_init_from_model(model, params)
if adapter:
    loaded = llama.llama_adapter_lora_init(model, adapter.encode())
    assert loaded, "llama.cpp does not load the adapter"
    one = (llama.llama_adapter_lora_p_ctypes * 1)(loaded)
    assert llama.llama_set_adapters_lora(context, one, 1, (ctypes.c_float * 1)(1.0)) == 0
batch = llama.llama_batch_init(len(ids), 0, 1)
batch.n_tokens = len(ids)
for i, each in enumerate(ids):
    batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = each, i, 1, True
    batch.seq_id[i][0] = 0
assert llama.llama_decode(context, batch) == 0
shape = (len(ids), llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))
np.save(target, np.ctypeslib.as_array(llama.llama_get_logits(context), shape))
"""
"""llama.cpp in a process of its own: base and adapter on one line of stdin, logits of all tokens to a file."""


def _log_softmax(logits: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(torch.log_softmax(logits.float(), dim=-1))


def in_llama_cpp(base: Path, adapter: Path | None, scratch: Path) -> NDArray[np.float32]:
    """Log-probabilities, shape (tokens, vocabulary)."""
    job = json.dumps([str(base), str(adapter) if adapter else "", str(scratch / "logits.npy"), IDS])
    made = subprocess.run(
        [sys.executable, "-P", "-c", CHILD], input=job + "\n", capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return _log_softmax(torch.from_numpy(np.load(scratch / "logits.npy")))


def in_peft(folder: Path, adapter: Path | None) -> NDArray[np.float32]:
    """The same of transformers and peft in float32, with the base's weights as an F16 GGUF has them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict({name: each.half().float() for name, each in model.state_dict().items()})
    tuned = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return _log_softmax(tuned(torch.tensor([IDS])).logits[0])


def make_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter as peft saves it, with random matrices that change the base's logits clearly."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.04)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def make_qwen2(folder: Path) -> Path:
    """Random weights with biases on q, k and v, whose rows llama.cpp takes as they are."""
    config = Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(5)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.12) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    make_tokenizer(folder, "qwen2")
    return folder


def quiet(done: int, total: int, name: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as an F16 GGUF."""
    path = tmp_path_factory.mktemp("base") / "model.gguf"
    convert(model, path, "F16", quiet)
    return path


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    """A small adapter to be spoilt."""
    return make_adapter(model, tmp_path / "adapter", target_modules=["q_proj"])


def _agree(folder: Path, base: Path, adapter: Path, type: str, scratch: Path) -> None:
    """llama.cpp gives peft's log-probabilities, as close as the base's are to transformers', and not the base's."""
    convert_adapter(adapter, folder, scratch / "adapter.gguf", type, quiet)
    found = in_llama_cpp(base, scratch / "adapter.gguf", scratch)
    wanted, before = in_peft(folder, adapter), in_peft(folder, None)
    assert np.abs(in_llama_cpp(base, None, scratch) - before).max() < 0.05
    assert np.abs(found - wanted).max() < 0.05
    assert np.abs(found - before).max() > 0.5


@pytest.mark.parametrize(
    ("type", "settings"),
    [
        ("F16", {}),
        ("F32", {}),
        ("F16", {"use_rslora": True}),
        ("F16", {"target_modules": ["q_proj"]}),
        ("F16", {"target_modules": ["k_proj"], "lora_alpha": 32}),
        ("F16", {"rank_pattern": {"q_proj": 8, "^model.layers.1.mlp.up_proj": 2}, "alpha_pattern": {"v_proj": 24}}),
        ("F16", {"rank_pattern": {"layers.0.self_attn.o_proj": 16}, "use_rslora": True}),
    ],
    ids=["all", "f32", "rslora", "q", "k", "patterns", "rslora-pattern"],
)
def test_llama_cpp_computes_what_peft_does(
    model: Path, plain: Path, tmp_path: Path, type: str, settings: dict[str, Any]
) -> None:
    _agree(model, plain, make_adapter(model, tmp_path / "adapter", **settings), type, tmp_path)


def test_a_family_that_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an adapter of a head that is not the embedding."""
    monkeypatch.setitem(FAMILIES, "Qwen2ForCausalLM", Family(MODEL_ARCH.QWEN2, decoder_parameters))  # type: ignore[arg-type]
    folder = make_qwen2(tmp_path / "hf")
    convert(folder, tmp_path / "model.gguf", "F16", quiet)
    made = make_adapter(folder, tmp_path / "adapter", target_modules=[*LINEAR, "lm_head"], lora_alpha=32)
    _agree(folder, tmp_path / "model.gguf", made, "F16", tmp_path)
    assert metadata(tmp_path / "adapter.gguf")["general.architecture"] == "qwen2"


def test_the_quantizer_writes_one_file_and_tells(step: Any, model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(model, tmp_path / "adapter", use_rslora=True)
    inputs = Artifact("adapter/peft", adapter, "digest"), Artifact("model/hf", model, "digest")
    GgufAdapterQuantizer(AdapterOptions()).quantize(step, *inputs)
    path = step.output / "adapter.gguf"
    assert list(step.output.iterdir()) == [path]
    alpha = 8 / 4**0.5 * 4  # over the rank this is alpha / sqrt(rank)
    wanted = {
        "general.type": "adapter",
        "general.architecture": "llama",
        "general.file_type": 1,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    found = metadata(path)
    assert {key: found.get(key) for key in wanted} == wanted
    tensors = {each.name: [int(n) for n in each.shape] for each in GGUFReader(path).tensors}
    assert len(tensors) == 2 * 7 * 2
    assert tensors["blk.1.ffn_down.weight.lora_a"] == [512, 4]
    assert tensors["blk.1.ffn_down.weight.lora_b"] == [4, 256]
    told = {"type": "f16", "bits_per_weight": 16.0, "matrices": 14, "ranks": [4], "alpha": alpha}
    assert {key: step.facts[key] for key in told} == told
    assert step.facts["bytes"] == path.stat().st_size
    assert step.facts["parameters"] == sum(shape[0] * shape[1] for shape in tensors.values())


def test_the_same_bytes_again(model: Path, adapter: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert_adapter(adapter, model, tmp_path / name, "F16", quiet)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_extra_step_of_a_recipe_is_taken_by_nobody(tmp_path: Path) -> None:
    """The service desk's plan with ``[steps.adapter]``: the bundle and the evaluation take what they took."""
    kernel, extra = Kernel(tmp_path), ["steps.adapter.stage=quantizer", "steps.adapter.use=gguf-adapter"]
    before = kernel.plan(Recipe.load(DESK))
    after = kernel.plan(Recipe.load(DESK, set=extra))
    steps = {each.name: each for each in after.steps}
    assert [each.name for each in after.steps if each.name != "adapter"] == [each.name for each in before.steps]
    assert all(steps[each.name].inputs == each.inputs for each in before.steps)
    assert steps["adapter"].inputs == ((("finetune", "adapter/peft"),), (("base", "model/hf"),))
    assert steps["bundle"].inputs[0] == (("quantize", "model/gguf"),)
    assert after.answering.runtimes.keys() == before.answering.runtimes.keys()


def test_the_existing_quantizer_is_the_one_it_was() -> None:
    specs: dict[str, QuantizerSpec] = {each.name: each for each in inhouse_quantizers()}
    assert (specs["gguf"].version, specs["gguf"].produces) == (2, ("model/gguf",))
    assert specs["gguf-adapter"].produces == ("adapter/gguf",)


# --- refusals -----------------------------------------------------------------------------------------


def _refused(adapter: Path, base: Path, tmp_path: Path, match: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=match):
        convert_adapter(adapter, base, out / "adapter.gguf", "F16", quiet)
    assert list(out.iterdir()) == []


def _edit(adapter: Path, **changed: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def _respell(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "no biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"init_lora_weights": "pissa"}, "pissa.*changes the base"),
        ({"r": 8}, "rank 8"),
        ({"r": "4"}, "r = '4'"),
        ({"lora_alpha": 0}, "lora_alpha = 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"rank_pattern": {"q_proj": 2}}, "rank 2"),
        ({"rank_pattern": {r".*\.q_proj": 4}}, "an expression"),
        ({"alpha_pattern": {r"layers\.\d+": 4}}, "an expression"),
        ({"alpha_pattern": {"q_proj": True}}, "alpha_pattern.q_proj"),
        ({"alpha_pattern": [4]}, "no object"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_a_gguf_adapter_cannot_say(
    adapter: Path, model: Path, tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    _edit(adapter, **changed)
    _refused(adapter, model, tmp_path, match)


def test_dora_as_peft_writes_it(model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(model, tmp_path / "adapter", use_dora=True)
    _edit(adapter, use_dora=False)  # the tensors tell it too
    _refused(adapter, model, tmp_path, "DoRA")


def test_an_adapter_of_the_embedding(model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(model, tmp_path / "adapter", target_modules=["q_proj"])
    name = "base_model.model.model.embed_tokens.lora_embedding_A"
    _respell(adapter, lambda tensors: tensors.update({name: torch.zeros(4, 512)}))
    _refused(adapter, model, tmp_path, "embeddings")


def test_an_adapter_of_a_head_that_is_the_embedding(adapter: Path, model: Path, tmp_path: Path) -> None:
    head = {"lora_A": torch.ones(4, 256), "lora_B": torch.ones(512, 4)}
    named = {f"base_model.model.lm_head.{half}.weight": each for half, each in head.items()}
    _respell(adapter, lambda tensors: tensors.update(named))
    _refused(adapter, model, tmp_path, "lm_head, which is one with the embedding")


def test_modules_that_the_base_does_not_have(model: Path, tmp_path: Path) -> None:
    deeper = make_model(tmp_path / "deeper", width=64)
    adapter = make_adapter(deeper, tmp_path / "adapter", target_modules=["q_proj"])
    _respell(
        adapter,
        lambda tensors: [tensors.update({n.replace("layers.1", "layers.7"): tensors.pop(n)}) for n in list(tensors)],
    )
    _refused(adapter, deeper, tmp_path, r"layers\.7\.self_attn\.q_proj, which .* does not have")


def test_another_models_adapter(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", width=96)
    adapter = make_adapter(other, tmp_path / "adapter", target_modules=["q_proj"])
    _refused(adapter, model, tmp_path, "q_proj is 96 x 96 in the adapter and 256 x 256 in")


def test_an_architecture_that_cannot_be_converted(adapter: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**content, "architectures": ["MambaForCausalLM"]}))
    _refused(adapter, base, tmp_path, "MambaForCausalLM")


def test_half_a_pair(adapter: Path, model: Path, tmp_path: Path) -> None:
    _respell(adapter, lambda tensors: tensors.pop(next(n for n in tensors if ".layers.0." in n and "lora_B" in n)))
    _refused(adapter, model, tmp_path, "lora_A only")


def test_tensors_of_no_lora(adapter: Path, model: Path, tmp_path: Path) -> None:
    _respell(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)}))
    _refused(adapter, model, tmp_path, "is no lora_A or lora_B")


def test_an_empty_adapter(adapter: Path, model: Path, tmp_path: Path) -> None:
    _respell(adapter, lambda tensors: tensors.clear())
    _refused(adapter, model, tmp_path, "nothing in the adapter")


def test_folders_that_are_no_adapter(adapter: Path, model: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    _refused(adapter, model, tmp_path, "pickle")
    with pytest.raises(DataError, match=r"adapter_config\.json.*no adapter folder"):
        convert_adapter(model, model, tmp_path / "x.gguf", "F16", quiet)


@pytest.mark.parametrize(("value", "match"), [(float("nan"), "no numbers"), (1e6, "beyond float16")])
def test_values_that_cannot_be_written(adapter: Path, model: Path, tmp_path: Path, value: float, match: str) -> None:
    _respell(adapter, lambda tensors: tensors[sorted(tensors)[-1]].fill_(value))
    _refused(adapter, model, tmp_path, match)


def test_unknown_types_of_adapters_are_refused() -> None:
    with pytest.raises(ValueError, match="q8_0"):
        AdapterOptions(type="q8_0")
