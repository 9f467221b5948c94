"""Fine-tuning on a GPU: the losses and gradients of the CPU, the same bits twice and after a kill, with dropout too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inhouse.values import Artifact
from inhouse_peft import Lora
from inhouse_peft.adapter import add_adapter
from inhouse_peft.lora import LoraTask, LoraTrainer, read_chats
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_repeats, check_resumes
from inhouse_torch.folders import load_model, load_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's use of it
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
KINDS = ("model/hf", "adapter/peft")
OPTIONS: dict[str, Any] = {
    "rank": 4, "alpha": 8, "learning_rate": 5e-3, "batch_size": 4, "epochs": 2, "evaluations": 2, "patience": 0,
    "device": "cuda",
}  # fmt: skip


def train(step: RecordingStep, base: Path, chats: Path, **changed: Any) -> None:
    trainer = LoraTrainer(Lora(**{**OPTIONS, **changed}))
    trainer.train(step, Artifact("model/hf", base, ""), Artifact("text/chat", chats, ""))  # type: ignore[arg-type]


def test_the_losses_are_those_of_the_cpu(make_step: Any, base: Path, chats: Path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        step = make_step(device)
        train(step, base, chats, device=device, dropout=0.0, compute_dtype="float32")
        assert step.facts["device"] == device
        found.append(torch.tensor([loss for _, loss in step.losses]))
    assert torch.allclose(*found, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantized", ["none", "nf4"])
def test_the_same_bits_twice_and_after_a_kill(
    tmp_path: Path, base: Path, chats: Path, dtype: str, quantized: str
) -> None:
    def run(step: RecordingStep) -> None:
        train(step, base, chats, dropout=0.1, compute_dtype=dtype, quantized_base=quantized)

    check_repeats(run, tmp_path / "1", *KINDS)
    check_resumes(run, tmp_path / "2", *KINDS, kill_at=5)


def test_gradients_in_16_bits_are_those_of_the_cpu(base: Path, chats: Path) -> None:
    samples, _ = read_chats(chats / "train.jsonl", load_tokenizer(base), 256)
    options, found = Lora(rank=4, dropout=0.0), []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        model = add_adapter(load_model(base, dtype, torch.device(device)), options, 3)
        generator = torch.Generator().manual_seed(4)
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.data.copy_(torch.randn(each.shape, generator=generator) * 0.05)
        task = LoraTask(model, samples, [], options)
        for loss in task.losses([0, 1, 2, 3]):
            loss.backward()  # type: ignore[no-untyped-call]
        slopes = [each.grad for each in task.parameters.values() if each.grad is not None]
        assert {each.dtype for each in slopes} == {torch.float32}
        found.append(torch.cat([each.cpu().flatten() for each in slopes]))
    assert torch.cosine_similarity(*found, dim=0) > 0.999
