"""The trainer `pretrain` on a tiny model: it learns, resumes exactly and writes a model that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inhouse.errors import ArtifactError, DataError
from inhouse.values import Artifact
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_resumes
from inhouse_torch import Pretrain
from inhouse_torch.loop import Moment, Settings, fit
from inhouse_torch.packing import Sample
from inhouse_torch.pretrain import PretrainTask, PretrainTrainer

END = "<end>"


@pytest.fixture
def base(tmp_path: Path) -> Artifact:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab={**letters, END: 256}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path / "base"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Artifact("model/hf", folder, "")


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"id": f"doc-{n}", "title": f"Title {n}", "text": "All bags are blue. " * (n % 5 + 1)} for n in range(11)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artifact("text/corpus", folder, "")


OPTIONS = Pretrain(learning_rate=3e-3, batch_size=4, epochs=4, compute_dtype="float32")


def test_it_learns_the_documents_and_tells_what_it_cut(tmp_path: Path, base: Artifact, corpus: Artifact) -> None:
    step = RecordingStep.at(tmp_path / "a")
    PretrainTrainer(evolve(OPTIONS, sample="All bags")).train(step, base, corpus)
    assert step.notices[-1].startswith("sample after ")
    assert "steps: All bags" in step.notices[-1]
    assert step.losses[-1][1] < 0.8 * step.losses[0][1]
    assert "cut into pieces" in step.notices[0]
    assert step.facts["heldout_documents"] >= 1
    assert step.facts["best_heldout_loss"] is not None
    assert (step.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    made = AutoModelForCausalLM.from_pretrained(step.output)
    assert made.dtype == torch.bfloat16
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert (step.output / "tokenizer.json").read_bytes() == (base.path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(("killed_at", "optimizer"), [(1, "adamw"), (4, "muon"), (7, "adamw")])
def test_killed_and_resumed_is_the_run_that_was_not(
    tmp_path: Path, base: Artifact, corpus: Artifact, killed_at: int, optimizer: Any
) -> None:
    options = evolve(OPTIONS, optimizer=optimizer)
    check_resumes(lambda step: PretrainTrainer(options).train(step, base, corpus), tmp_path, kill_at=killed_at)


def test_training_runs_through_the_fast_forwards(base: Artifact) -> None:
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    PretrainTask(model, [Sample((1, 2, 3), (True,) * 3)], [], OPTIONS)
    fast = {name.rpartition(".")[2] for name, module in model.named_modules() if "forward" in vars(module)}
    assert fast == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm", "norm"}


def test_losses_are_those_of_a_plain_loop(tmp_path: Path, base: Artifact) -> None:
    """Ten steps against torch's own AdamW on padded batches."""
    torch.manual_seed(1)
    samples = [Sample(tuple(torch.randint(0, 257, (n,)).tolist()), (True,) * n, str(n)) for n in range(9, 21)]
    settings = Settings(learning_rate=1e-3, batch_size=4, epochs=3, decay="constant", warmup=0.0)
    found: list[Moment] = []
    task = PretrainTask(AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32), samples, [], OPTIONS)
    fit(task, settings, seed=5, folder=tmp_path / "fit", tell=found.append)

    from inhouse_torch.schedule import batch

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    wanted = []
    for rows in (batch(12, 4, place, seed=5, epoch=epoch) for epoch in range(3) for place in range(3)):
        ids = torch.zeros(4, 20, dtype=torch.int64)
        labels = torch.full((4, 20), -100)
        for slot, row in enumerate(rows):
            ids[slot, : len(samples[row].ids)] = torch.tensor(samples[row].ids)
            labels[slot, : len(samples[row].ids)] = torch.tensor(samples[row].ids)
        loss = model(input_ids=ids, attention_mask=(labels >= 0).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wanted.append(loss.item())
    assert [moment.loss for moment in found] == pytest.approx(wanted, rel=1e-4)


def test_what_a_user_can_get_wrong(tmp_path: Path, base: Artifact, corpus: Artifact) -> None:
    (corpus.path / "corpus.jsonl").write_text("")
    with pytest.raises(DataError, match="no text to learn from"):
        PretrainTrainer(OPTIONS).train(RecordingStep.at(tmp_path / "a"), base, corpus)
    empty = Artifact("model/hf", tmp_path / "nothing", "")
    empty.path.mkdir()
    with pytest.raises(ArtifactError, match="only safetensors are read"):
        PretrainTrainer(OPTIONS).train(RecordingStep.at(tmp_path / "b"), empty, corpus)


def test_a_tokenizer_that_does_not_match_is_told(tmp_path: Path, base: Artifact, corpus: Artifact) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base.path)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(base.path)
    with pytest.raises(
        ArtifactError, match="does not match the model: it has 258 tokens, the model's embedding 257 rows"
    ):
        PretrainTrainer(OPTIONS).train(RecordingStep.at(tmp_path / "a"), base, corpus)
