"""The trainer end to end on a tiny model: exact resume, same bits, adapter for plain peft, merge."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse.errors import DataError, RecipeError, StepError
from inhouse.values import Artifact
from inhouse_peft import Lora
from inhouse_peft.adapter import add_adapter
from inhouse_peft.dropout import Dropout
from inhouse_peft.lora import LoraTrainer
from inhouse_peft.patch import speed_up
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_resumes
from inhouse_torch import precision

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it
OPTIONS: dict[str, Any] = {
    "rank": 4, "alpha": 8, "learning_rate": 5e-3, "batch_size": 4, "epochs": 2, "evaluations": 2, "patience": 0,
    "dropout": 0.1, "compute_dtype": "float32",
}  # fmt: skip


def train(step: Any, base: Path, chats: Path, **changed: Any) -> None:
    trainer = LoraTrainer(Lora(**{**OPTIONS, **changed}))
    trainer.train(step, Artifact("model/hf", base, ""), Artifact("text/chat", chats, ""))


def tensors(step: Any, kind: str) -> dict[str, torch.Tensor]:
    (file,) = step.outputs[kind].glob("*.safetensors")
    found: dict[str, torch.Tensor] = load_file(file)
    return found


def test_it_learns_and_says_so(make_step: Any, base: Path, chats: Path) -> None:
    step = make_step("a")
    train(step, base, chats, epochs=6)
    assert step.facts["steps"] == 36
    assert step.losses[-1][1] < 0.95 * step.losses[0][1]
    assert step.heldout[-1][1] < step.heldout[0][1]
    assert step.facts["best_heldout_loss"] == min(loss for _, loss in step.heldout)
    assert step.facts["train_chats"] == 22


@pytest.mark.parametrize(("killed_at", "dora"), [(1, False), (5, False), (6, False), (9, False), (5, True)])
def test_killed_and_resumed_is_the_run_that_was_not(
    tmp_path: Path, base: Path, chats: Path, killed_at: int, dora: bool
) -> None:
    kinds = ("model/hf", "adapter/peft")
    whole = check_resumes(lambda step: train(step, base, chats, dora=dora), tmp_path, *kinds, kill_at=killed_at)
    assert whole.facts["heldout_losses"] == whole.heldout


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16])
def test_a_resumed_training_keeps_the_format_it_began_with(
    tmp_path: Path, base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch, first: torch.dtype
) -> None:
    """A second measurement would say the other one."""
    other = torch.bfloat16 if first == torch.float32 else torch.float32

    def run(step: RecordingStep) -> None:
        faster = other if any(step.checkpoints.iterdir()) else first
        monkeypatch.setattr(precision, "gemm_rate", lambda dtype, device: 10.0 if dtype == faster else 1.0)
        train(step, base, chats, compute_dtype="auto")

    whole = check_resumes(run, tmp_path, "model/hf", "adapter/peft", kill_at=5)
    assert whole.facts["compute_dtype"] == str(first).removeprefix("torch.")
    resumed = RecordingStep.at(tmp_path / "broken", "model/hf", "adapter/peft")
    run(resumed)
    assert resumed.facts["compute_dtype"] == whole.facts["compute_dtype"]


def test_a_run_without_its_last_checkpoint_repeats_the_same_losses(make_step: Any, base: Path, chats: Path) -> None:
    """As SIGKILL leaves it: the last steps are not in any checkpoint."""
    whole = make_step("whole")
    train(whole, base, chats)
    broken = make_step("broken", kill_at=3)
    with pytest.raises(BaseException, match=r"^$"):
        train(broken, base, chats)
    (broken.checkpoints / ".new-00000004").mkdir()  # a checkpoint that was being written
    resumed = make_step("broken")
    train(resumed, base, chats)
    assert resumed.losses == whole.losses[3:]


@pytest.mark.parametrize("dora", [False, True])
def test_the_adapter_loads_in_plain_peft_and_the_merge_is_the_same_model(
    make_step: Any, base: Path, chats: Path, dora: bool
) -> None:
    step = make_step("a")
    train(step, base, chats, dora=dora)
    assert any("magnitude" in name for name in tensors(step, "adapter/peft")) == dora
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    tuned = PeftModel.from_pretrained(plain, step.outputs["adapter/peft"])
    merged = AutoModelForCausalLM.from_pretrained(step.outputs["model/hf"], dtype=torch.float32)
    assert tied
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        wanted, found = tuned(ids).logits, merged(ids).logits
    assert torch.allclose(wanted, found, atol=0.03 * float(wanted.abs().max()))  # bf16 weights
    stored = tensors(step, "model/hf")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(step.outputs["model/hf"])
    assert before.chat_template == after.chat_template
    assert before.get_vocab() == after.get_vocab()


def test_early_stop_keeps_the_best(make_step: Any, base: Path, chats: Path) -> None:
    step = make_step("a")
    train(step, base, chats, learning_rate=0.3, epochs=40, evaluations=1, patience=2, decay="constant")
    assert step.facts["stopped_early"]
    assert step.facts["best_step"] < step.facts["steps"] < 240
    assert "stopped early" in step.notices[-1]


def test_without_evaluations_the_last_step_is_kept(make_step: Any, base: Path, chats: Path) -> None:
    step = make_step("a")
    train(step, base, chats, evaluations=0)
    assert step.facts["heldout_losses"] == []
    assert step.facts["best_heldout_loss"] is None
    assert step.facts["heldout_chats"] > 0


def test_accumulation_changes_nothing_beyond_rounding(make_step: Any, base: Path, chats: Path) -> None:
    whole, pieces = make_step("whole"), make_step("pieces")
    train(whole, base, chats, dropout=0.0)
    train(pieces, base, chats, dropout=0.0, micro_batch_tokens=60)
    for (_, wanted), (_, found) in zip(whole.losses, pieces.losses, strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)


def test_a_loss_that_is_no_number_names_the_row(make_step: Any, base: Path, chats: Path, monkeypatch: Any) -> None:
    from inhouse_torch import forward

    own = forward.joined_loss

    def poisoned(model: Any, packed: Any, dtype: Any) -> torch.Tensor:
        loss = own(model, packed)
        return loss * float("nan") if 1 in packed.input_ids and packed.real_tokens > 70 else loss

    monkeypatch.setattr(forward, "joined_loss", poisoned)
    with pytest.raises(StepError, match=r"not a number at step 1 .*jsonl:\d+"):
        train(make_step("a"), base, chats)


def test_layers_below_the_first_stay_as_they_are(make_step: Any, base: Path, chats: Path) -> None:
    step = make_step("a")
    train(step, base, chats, first_layer=1, epochs=1)
    assert {name.split(".layers.")[1][0] for name in tensors(step, "adapter/peft")} == {"1"}
    before, after = load_file(base / "model.safetensors"), tensors(step, "model/hf")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 7
    assert all(".layers.1." in name for name in changed)
    with pytest.raises(RecipeError, match="first_layer = 2 leaves no layer"):
        train(make_step("b"), base, chats, first_layer=2)


def test_what_a_user_can_get_wrong(make_step: Any, base: Path, chats: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"fits no layer.*\n.*q_proj"):
        train(make_step("a"), base, chats, targets="query_key_value")
    (chats / "train.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(DataError, match=r"train.jsonl:1.*no assistant turn"):
        train(make_step("b"), base, chats)
    (chats / "train.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match=r"train.jsonl:1.*no JSON"):
        train(make_step("c"), base, chats)


def test_the_adapter_is_written_the_same_in_every_process(tmp_path: Path) -> None:
    """peft keeps target modules in a set, whose order depends on the process's hash seed."""
    script = (
        "import sys; from pathlib import Path; from transformers import AutoModelForCausalLM, LlamaConfig\n"
        "from inhouse_peft import Lora; from inhouse_peft.adapter import add_adapter, save_adapter\n"
        "config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,"
        " num_attention_heads=2, num_key_value_heads=1)\n"
        "save_adapter(add_adapter(AutoModelForCausalLM.from_config(config), Lora(), 1), Path(sys.argv[1]))\n"
    )
    written = []
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, check=True)
        written.append((folder / "adapter_config.json").read_bytes())
    assert len(set(written)) == 1


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_is_trained_on_and_the_16_bit_one_merged(
    tmp_path: Path, base: Path, chats: Path, kind: str
) -> None:
    """QLoRA: the adapter learns and resumes exactly; the merge is plain peft's on the 16-bit base."""
    kinds = ("model/hf", "adapter/peft")
    options = {"quantized_base": kind, "epochs": 3, "learning_rate": 1e-2}
    step = check_resumes(lambda step: train(step, base, chats, **options), tmp_path, *kinds, kill_at=7)
    exact = RecordingStep.at(tmp_path / "exact", *kinds)
    train(exact, base, chats, **{**options, "quantized_base": "none", "epochs": 1})
    assert step.losses[0][1] != exact.losses[0][1]  # of the rounded base, and not far from it
    assert step.losses[0][1] == pytest.approx(exact.losses[0][1], rel=0.05)
    assert step.heldout[-1][1] < step.heldout[0][1]
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), step.outputs["adapter/peft"]
    )
    merged = AutoModelForCausalLM.from_pretrained(step.outputs["model/hf"], dtype=torch.float32)
    assert not hasattr(merged.config, "quantization_config")
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        wanted, found = tuned(ids).logits, merged(ids).logits
        with tuned.disable_adapter():
            plain = tuned(ids).logits
    assert torch.allclose(wanted, found, atol=0.03 * float(wanted.abs().max()))
    assert float((wanted - plain).abs().max()) > 0.1 * float(wanted.abs().max())


def test_a_base_in_4_bits_computes_what_bitsandbytes_does(base: Path) -> None:
    """Logits and adapter gradients of the fast forwards against peft's and bitsandbytes' own; no weight is kept whole."""
    from inhouse_peft.qlora import load_quantized

    model = load_quantized(base, "nf4", torch.float32, torch.device("cpu"))
    weights = {tuple(each.weight.quant_state.shape) for each in model.modules() if type(each).__name__ == "Linear4bit"}
    tuned = add_adapter(model, Lora(rank=4, dropout=0.0), seed=1)
    adapter = {name: each for name, each in tuned.named_parameters() if each.requires_grad}
    for name, each in adapter.items():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.1, generator=torch.Generator().manual_seed(2))
    ids = torch.arange(5, 25).unsqueeze(0)
    found = []
    kept: set[tuple[int, ...]] = set()

    def keep(each: torch.Tensor) -> torch.Tensor:
        kept.add(tuple(each.shape))
        return each

    for fast in (False, True):
        if fast:
            causal = tuned.get_base_model()
            done = speed_up(causal, Dropout(0.0))
            layers = causal.config.num_hidden_layers
            assert (done.linears, done.blocks, done.attentions) == (7 * layers, layers, layers)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
            logits = tuned(input_ids=ids).logits
        logits.square().mean().backward()
        found.append((logits.detach(), torch.cat([each.grad.flatten() for each in adapter.values()])))
        tuned.zero_grad()
    assert kept
    assert weights
    assert not kept & weights
    (own, own_gradient), (mine, my_gradient) = found
    assert torch.allclose(own, mine, atol=1e-4 * float(own.abs().max()))
    assert torch.cosine_similarity(own_gradient, my_gradient, dim=0) > 0.99999


def test_a_quantised_base_is_smaller(base: Path) -> None:
    from inhouse_peft.qlora import load_quantized

    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layers = [name for name, each in whole.named_modules() if isinstance(each, torch.nn.Linear) and name != "lm_head"]
    for kind, most in (("nf4", 0.75), ("int8", 1.1)):
        small = load_quantized(base, kind, torch.float32, torch.device("cpu"))
        sizes = {
            name: each.weight.numel() * each.weight.element_size()
            for name, each in small.named_modules()
            if name in layers
        }
        bits = 8 * sum(sizes.values()) / sum(whole.get_submodule(name).weight.numel() for name in layers)
        assert bits <= 8 * most, kind


def test_a_quantised_base_without_the_library_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert LoraTrainer(Lora(quantized_base="nf4")).probe() == (
        "a quantised base needs bitsandbytes: pip install 'inhouse-peft[qlora]'"
    )
    assert LoraTrainer(Lora()).probe() is None
