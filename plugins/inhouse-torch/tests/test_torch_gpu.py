"""Training on a GPU: the same losses as on the CPU, the same bits twice and after a kill, and a word when it is full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from inhouse.errors import ResourceError
from inhouse.values import Artifact
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_repeats, check_resumes
from inhouse_torch import Pretrain, Scratch
from inhouse_torch.device import training_on
from inhouse_torch.pretrain import PretrainTrainer
from inhouse_torch.scratch import ScratchTrainer

TEXTS = [f"bag {n} is blue, shoe {n * 7 % 11} was sent back to our shop in May, and {n % 3} more" for n in range(48)]
SCRATCH = Scratch(depth=2, vocabulary=320, context=32, epochs=2, batch_size=4, evaluations=1, compute_dtype="float32")
PRETRAIN = Pretrain(learning_rate=3e-3, batch_size=8, epochs=2, context=64, compute_dtype="float32")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"id": f"doc-{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artifact("text/corpus", folder, "")


@pytest.fixture
def base(tmp_path: Path, corpus: Artifact) -> Artifact:
    step = RecordingStep.at(tmp_path / "base")
    ScratchTrainer(evolve(SCRATCH, device="cpu")).train(step, corpus, None)
    return Artifact("model/hf", step.output, "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told_before_any_work(tmp_path: Path, corpus: Artifact) -> None:
    with pytest.raises(ResourceError, match="torch sees no GPU") as told:
        ScratchTrainer(evolve(SCRATCH, device="cuda")).train(RecordingStep.at(tmp_path / "a"), corpus, None)
    assert told.value.exit_code == 2
    assert 'device = "cpu"' in str(told.value.hint)


def test_a_gpu_that_cannot_compute_is_left_out_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is too old for this torch, or that another process holds."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.ones", fails)
    with training_on("auto") as device:
        assert device.type == "cpu"
    why = r"does not work with this torch \(CUDA error: no kernel image is available\)"
    with pytest.raises(ResourceError, match=why), training_on("cuda"):
        pass


def test_a_cpu_is_taken_when_asked_for_and_leaves_torch_as_it_was(tmp_path: Path, corpus: Artifact) -> None:
    step = RecordingStep.at(tmp_path / "a")
    ScratchTrainer(evolve(SCRATCH, device="cpu", epochs=1)).train(step, corpus, None)
    assert step.facts["device"] == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()


@on_a_gpu
def test_the_losses_are_those_of_the_cpu(tmp_path: Path, corpus: Artifact, base: Artifact) -> None:
    for name, trainer, options, inputs in (
        ("scratch", ScratchTrainer, SCRATCH, (corpus, None)),
        ("pretrain", PretrainTrainer, PRETRAIN, (base, corpus)),
    ):
        steps = {each: RecordingStep.at(tmp_path / f"{name}-{each}") for each in ("cpu", "cuda")}
        for device, step in steps.items():
            trainer(evolve(options, device=device)).train(step, *inputs)  # type: ignore[arg-type]
            assert step.facts["device"] == device
        cpu, gpu = (torch.tensor([loss for _, loss in step.losses]) for step in steps.values())
        assert len(cpu) > 8
        assert torch.allclose(cpu, gpu, rtol=1e-2), name


@on_a_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_bits_twice_and_after_a_kill(
    tmp_path: Path, corpus: Artifact, base: Artifact, dtype: Any, optimizer: Any
) -> None:
    options = evolve(SCRATCH, device="cuda", compute_dtype=dtype, optimizer=optimizer)
    pretrain = evolve(PRETRAIN, device="cuda", compute_dtype=dtype, optimizer=optimizer)
    check_repeats(lambda step: ScratchTrainer(options).train(step, corpus, None), tmp_path / "1", "model/hf")
    check_resumes(lambda step: ScratchTrainer(options).train(step, corpus, None), tmp_path / "2", "model/hf", kill_at=3)
    check_resumes(
        lambda step: PretrainTrainer(pretrain).train(step, base, corpus), tmp_path / "3", "model/hf", kill_at=3
    )
    assert not torch.are_deterministic_algorithms_enabled()


@on_a_gpu
def test_memory_that_does_not_suffice_is_told_with_its_figures() -> None:
    with pytest.raises(ResourceError, match=r"does not suffice: .* GB are free") as told, training_on("cuda") as device:
        torch.empty(1 << 46, dtype=torch.uint8, device=device)
    assert "micro_batch_tokens" in str(told.value.hint)
