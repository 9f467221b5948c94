"""What a trainer measured when it began is what it goes on with, whatever a later measurement says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from inhouse.errors import ArtifactError
from inhouse.values import Artifact
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_resumes
from inhouse_torch import Pretrain, Scratch, precision
from inhouse_torch.bpe import train_tokenizer
from inhouse_torch.optimizers import Optimizers
from inhouse_torch.pretrain import PretrainTrainer
from inhouse_torch.scratch import ScratchTrainer
from inhouse_torch.shape import by_depth, fresh_model

TEXTS = [f"bag {n} is blue, shoe {n * 7 % 11} was sent back to our shop in May, and {n % 3} more" for n in range(24)]
SCRATCH = Scratch(depth=1, vocabulary=320, context=32, epochs=1, batch_size=4, evaluations=1)
PRETRAIN = Pretrain(learning_rate=3e-3, batch_size=8, context=64)


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"id": f"doc-{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artifact("text/corpus", folder, "")


@pytest.fixture
def base(tmp_path: Path) -> Artifact:
    tokenizer = train_tokenizer(TEXTS, 290, context=64)
    torch.manual_seed(0)
    shape = by_depth(1, vocabulary=len(tokenizer), context=64)
    fresh_model(shape, bos=1, eos=2, pad=0).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return Artifact("model/hf", tmp_path / "base", "")


class Machine:
    """Measures ``faster`` as ten times as fast as the other format, and counts the measurements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, faster: torch.dtype) -> None:
        self.faster, self.asked = faster, 0
        monkeypatch.setattr(precision, "gemm_rate", self.rate)

    def rate(self, dtype: torch.dtype, *, device: str) -> float:
        self.asked += 1
        return 10.0 if dtype == self.faster else 1.0


@pytest.mark.parametrize(
    ("trainer", "first"),
    [
        ("scratch", torch.bfloat16),
        ("scratch", torch.float32),
        ("pretrain", torch.bfloat16),
        ("muon of scratch", torch.float32),
        ("muon of pretrain", torch.float32),
    ],
)
def test_a_resumed_training_keeps_the_format_it_began_with(
    tmp_path: Path, corpus: Artifact, base: Artifact, monkeypatch: pytest.MonkeyPatch, trainer: str, first: torch.dtype
) -> None:
    """Where the products' format is told, Muon's is still measured."""
    machine = Machine(monkeypatch, first)
    told: Any = {"compute_dtype": "float32", "optimizer": "muon"} if "muon" in trainer else {"optimizer": "adamw"}

    def train(step: RecordingStep) -> None:
        resumes = any(step.checkpoints.iterdir())
        other = torch.bfloat16 if first == torch.float32 else torch.float32
        machine.faster, machine.asked = (other if resumes else first), 0
        if "scratch" in trainer:
            ScratchTrainer(evolve(SCRATCH, **told)).train(step, corpus, None)
        else:
            PretrainTrainer(evolve(PRETRAIN, **told)).train(step, base, corpus)
        assert machine.asked == (0 if resumes else 2)

    whole = check_resumes(train, tmp_path, kill_at=2)
    kept = json.loads((whole.checkpoints / precision.MEASURED).read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert kept == {"dtype": str(first).removeprefix("torch."), "device": device}


def test_the_format_of_muon_matters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the test above would show nothing of it."""
    torch.manual_seed(0)
    start, gradient = torch.randn(8, 12), torch.randn(8, 12)

    def stepped(faster: torch.dtype, folder: Path) -> torch.Tensor:
        Machine(monkeypatch, faster)
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        Optimizers({"w": weight}, name="muon", matrices=["w"], weight_decay=0.0, folder=folder).step(0.1)
        return weight.detach()

    exact = stepped(torch.float32, tmp_path / "a")
    assert not torch.equal(exact, stepped(torch.bfloat16, tmp_path / "b"))
    assert torch.equal(exact, stepped(torch.bfloat16, tmp_path / "a"))


def test_it_is_there_before_the_first_step(tmp_path: Path, corpus: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed outright in its first step leaves no checkpoint, and measured all the same."""
    Machine(monkeypatch, torch.bfloat16)
    step = RecordingStep.at(tmp_path / "a")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inhouse_torch.loop._step", killed)
    with pytest.raises(KeyboardInterrupt):
        ScratchTrainer(SCRATCH).train(step, corpus, None)
    assert sorted(each.name for each in step.checkpoints.iterdir()) == ["corpus", precision.MEASURED]


@pytest.mark.parametrize("text", ["", "[]", '{"dtype": "float16"}', "{}"])
def test_a_damaged_note_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / precision.MEASURED).write_text(text)
    with pytest.raises(ArtifactError, match=r"measured.json.*number format"):
        precision.compute_dtype("auto", folder=tmp_path)
    assert precision.compute_dtype("bfloat16", folder=tmp_path) == torch.bfloat16


def test_on_another_device_it_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, torch.float32)
    assert precision.compute_dtype("auto", folder=tmp_path) == torch.float32
    machine.faster = torch.bfloat16
    assert precision.compute_dtype("auto", folder=tmp_path) == torch.float32
    assert precision.compute_dtype("auto", device="cuda", folder=tmp_path) == torch.bfloat16
    machine.faster = torch.float32
    assert precision.compute_dtype("auto", device="cuda", folder=tmp_path) == torch.bfloat16
