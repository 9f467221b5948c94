"""The trainer `scratch` and its parts: it learns, resumes exactly, and writes a model that loads."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse.errors import ArtifactError, DataError, RecipeError
from inhouse.values import Artifact
from inhouse_testing.recording import RecordingStep
from inhouse_testing.trainers import check_resumes
from inhouse_torch import Scratch, scratch
from inhouse_torch.bigrams import count_pairs
from inhouse_torch.bpe import train_tokenizer
from inhouse_torch.corpus import prepare
from inhouse_torch.muon import Muon, orthogonal
from inhouse_torch.optimizers import Optimizers, matrices
from inhouse_torch.scratch import ScratchTask, ScratchTrainer, join, pieces
from inhouse_torch.shape import by_depth, by_parameters, fresh_model, parse_count
from inhouse_torch.shards import Shards, ShardWriter

WORDS = [
    "the",
    "blue",
    "bag",
    "is",
    "on",
    "its",
    "way",
    "and",
    "the",
    "red",
    "shoe",
    "was",
    "sent",
    "back",
    "to",
    "our",
    "shop",
    "in",
    "May",
]
OPTIONS = Scratch(
    depth=1, vocabulary=320, context=32, epochs=2, batch_size=4, heldout=0.2, evaluations=1, compute_dtype="float32"
)


def write_corpus(folder: Path, texts: list[str]) -> Artifact:
    folder.mkdir()
    rows = [{"id": f"doc-{n}", "title": "", "text": text} for n, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artifact("text/corpus", folder, "")


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    texts = [" ".join(WORDS[(n * 7 + i * i) % len(WORDS)] for i in range(30)) for n in range(24)]
    return write_corpus(tmp_path / "corpus", texts)


# --- the trainer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_learns_and_writes_a_model_that_loads(tmp_path: Path, corpus: Artifact, optimizer: Any) -> None:
    step = RecordingStep.at(tmp_path / "a")
    ScratchTrainer(evolve(OPTIONS, optimizer=optimizer, epochs=6)).train(step, corpus, None)
    assert step.losses[-1][1] < 0.7 * step.losses[0][1]
    assert step.facts["best_heldout_loss"] < step.losses[0][1]
    assert "1 layers, width 256" in step.notices[0]
    assert [each for each in step.notices if each.startswith("sample after ")]
    assert (step.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(step.output), AutoTokenizer.from_pretrained(step.output)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == step.facts["parameters"]
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).startswith("<|im_start|>")
    assert set(model.generation_config.eos_token_id) == {0, tokenizer.eos_token_id}


def test_pairs_give_a_head_start(tmp_path: Path, corpus: Artifact) -> None:
    losses = {}
    for first in ("bigrams", "random"):
        step = RecordingStep.at(tmp_path / first)
        ScratchTrainer(evolve(OPTIONS, first_weights=first)).train(step, corpus, None)
        losses[first] = [loss for _, loss in step.losses]
    assert losses["bigrams"][0] < 0.7 * losses["random"][0]
    assert losses["bigrams"][-1] < losses["bigrams"][0]
    assert losses["bigrams"][-1] < losses["random"][-1]


@pytest.mark.parametrize(
    ("optimizer", "first", "killed_at"),
    [("muon", "random", 1), ("muon", "random", 5), ("adamw", "random", 4), ("muon", "bigrams", 5)],
)
def test_killed_and_resumed_is_the_run_that_was_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Artifact, optimizer: Any, first: Any, killed_at: int
) -> None:
    counted: list[int] = []

    def counting(*arguments: Any, **keywords: Any) -> Any:
        counted.append(1)
        return count_pairs(*arguments, **keywords)

    monkeypatch.setattr(scratch, "count_pairs", counting)
    options = evolve(OPTIONS, optimizer=optimizer, first_weights=first)
    check_resumes(lambda step: ScratchTrainer(options).train(step, corpus, None), tmp_path, kill_at=killed_at)
    begun = 2  # the run that was not killed and the one that was; the resumed one counts nothing
    assert len(counted) == (begun if first == "bigrams" else 0)


def test_a_tokenizer_of_another_step_is_taken(tmp_path: Path, corpus: Artifact) -> None:
    other = train_tokenizer(["entirely other words, of course, and many of them"] * 9, 290, context=64)
    other.save_pretrained(tmp_path / "tokenizer")
    given_ = Artifact("tokenizer", tmp_path / "tokenizer", "")
    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, given_, vocabulary=320, context=32, heldout=0.1)
    assert tokens.tokenizer.get_vocab() == other.get_vocab()


def test_the_corpus_is_cut_in_two_and_nothing_is_lost(tmp_path: Path, corpus: Artifact) -> None:
    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, None, vocabulary=320, context=32, heldout=0.2)
    end = tokens.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    rows = [tokens.train.read(0, tokens.train.count), tokens.heldout.read(0, tokens.heldout.count)]
    assert sum(int((row == end).sum()) for row in rows) == 24
    texts = [text for row in rows for text in tokens.tokenizer.decode(row).split("<|endoftext|>") if text]
    wanted = [json.loads(line)["text"] for line in (corpus.path / "corpus.jsonl").read_text().splitlines()]
    assert sorted(texts) == sorted(wanted)
    assert 0 < int((rows[1] == end).sum()) < 12


def test_of_few_documents_the_ends_are_held_out(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [" ".join(WORDS * 20)])
    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, None, vocabulary=320, context=32, heldout=0.25)
    assert tokens.heldout.count == pytest.approx(tokens.train.count / 3, abs=2)


@pytest.mark.parametrize(
    ("texts", "options", "error", "said"),
    [
        ([], {}, DataError, "no text to learn from"),
        (["a"], {}, DataError, "too small to train a tokenizer on"),
        ([" ".join(WORDS)], {"context": 64}, DataError, "one sequence needs 65"),
        ([" ".join(WORDS * 9)], {"parameters": "10 cows"}, RecipeError, "is no number of parameters"),
    ],
)
def test_what_a_user_can_get_wrong(
    tmp_path: Path, texts: list[str], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus", texts)
    with pytest.raises(error, match=said):
        ScratchTrainer(evolve(OPTIONS, **options)).train(RecordingStep.at(tmp_path / "a"), corpus, None)


def test_a_damaged_row_is_named(tmp_path: Path, corpus: Artifact) -> None:
    with (corpus.path / "corpus.jsonl").open("a") as stream:
        stream.write("{broken\n")
    with pytest.raises(DataError, match=r"corpus.jsonl:25: this row is no JSON"):
        ScratchTrainer(OPTIONS).train(RecordingStep.at(tmp_path / "a"), corpus, None)


def test_losses_are_those_of_transformers(tmp_path: Path, corpus: Artifact) -> None:
    """A step's loss and gradients against the model's own loss on the same windows, whole and cut in two."""
    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, None, vocabulary=320, context=64, heldout=0.0)
    torch.manual_seed(0)
    model = fresh_model(by_depth(1, vocabulary=320, context=64), bos=1, eos=2, pad=0)
    for parameter in model.parameters():  # some of them begin at zero and would hide the others
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    windows = torch.stack([tokens.train.read(start, 65) for start in (0, 40, 100)])
    for count in (1, 2):
        model.set_attn_implementation("sdpa")
        ids, labels = windows[:, :-1].reshape(3 * count, -1), windows[:, 1:].reshape(3 * count, -1)
        logits = model(input_ids=ids).logits
        wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        wanted.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        from inhouse_torch.attention import register
        from inhouse_torch.forward import joined_loss

        model.set_attn_implementation(register())
        found = joined_loss(model, join(windows, count))
        found.backward()
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter.grad, gradients[name], atol=2e-4), name
        model.zero_grad()


def test_every_epoch_reads_every_window_and_cuts_elsewhere(tmp_path: Path, corpus: Artifact) -> None:
    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, None, vocabulary=320, context=32, heldout=0.0)
    model = fresh_model(by_depth(1, vocabulary=320, context=32), bos=1, eos=2, pad=0)
    task = ScratchTask(model, tokens, OPTIONS)
    places = []
    for epoch in range(4):
        task.begin(3, epoch * task.steps)
        places.append(task.name(0))
        list(task.losses([task.count - 1]))  # the last window ends inside the corpus
    assert len(set(places)) > 1


def test_training_runs_through_the_fast_forwards_and_gives_them_back(tmp_path: Path, corpus: Artifact) -> None:
    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, None, vocabulary=320, context=64, heldout=0.0)
    model = fresh_model(by_depth(2, vocabulary=320, context=64), bos=1, eos=2, pad=0)
    task = ScratchTask(model, tokens, OPTIONS)
    fast = [name for name, module in model.named_modules() if "forward" in vars(module)]
    layers = [f"model.layers.{n}.{part}" for n in (0, 1)
              for part in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")]  # fmt: skip
    assert sorted(fast) == sorted([*layers, "model.norm"])
    task.close()
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_growing_sequences_are_what_is_trained_on(
    tmp_path: Path, corpus: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inhouse_torch import scratch

    tokens = prepare(RecordingStep.at(tmp_path / "a"), corpus, None, vocabulary=320, context=64, heldout=0.0)
    model = fresh_model(by_depth(1, vocabulary=320, context=64), bos=1, eos=2, pad=0)
    task = ScratchTask(model, tokens, evolve(OPTIONS, context=64, grow_context=0.5))
    lengths: list[set[int]] = []
    whole = scratch.joined_loss
    monkeypatch.setattr(
        scratch, "joined_loss", lambda m, packed, _: lengths.append(set(packed.segments.lengths)) or whole(m, packed)
    )
    for step in (0, task.steps * OPTIONS.epochs - 1):
        task.begin(3, step)
        list(task.losses([0, 1]))
    assert lengths == [{32}, {64}]


def test_muon_takes_the_matrices_of_the_layers_and_nothing_else() -> None:
    model = fresh_model(by_depth(1, vocabulary=320, context=64), bos=1, eos=2, pad=0)
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    kept = {}
    for name in ("muon", "adamw"):
        made = Optimizers(parameters, name=name, matrices=matrices(model), weight_decay=0.0)  # type: ignore[arg-type]
        made.step(1e-3)
        kept[name] = {key.partition(".")[2] for key in made.state() if key.startswith("momentum_buffer.")}
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
    assert kept["adamw"] == set()
    assert kept["muon"] == {f"model.layers.0.{name}.weight" for name in (
        *(f"self_attn.{letter}_proj" for letter in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    )}  # fmt: skip


def test_products_in_bfloat16_give_nearly_the_same_losses(tmp_path: Path, corpus: Artifact) -> None:
    steps = {}
    for dtype in ("float32", "bfloat16"):
        steps[dtype] = RecordingStep.at(tmp_path / dtype)
        ScratchTrainer(evolve(OPTIONS, compute_dtype=dtype, epochs=1)).train(steps[dtype], corpus, None)
    exact, rough = ([loss for _, loss in steps[dtype].losses] for dtype in ("float32", "bfloat16"))
    assert rough == pytest.approx(exact, rel=2e-2)
    assert rough != exact


@pytest.mark.parametrize("prompt", ["", "the blue bag " * 60])
def test_a_sample_of_any_prompt_fits_the_context(tmp_path: Path, corpus: Artifact, prompt: str) -> None:
    step = RecordingStep.at(tmp_path / "a")
    ScratchTrainer(evolve(OPTIONS, sample=prompt, epochs=1)).train(step, corpus, None)
    assert prompt in step.notices[-1]
    assert len(step.notices[-1]) > len("sample after 9 of 9 steps: ") + len(prompt)


def test_sequences_grow() -> None:
    assert [pieces(done / 10, 0.6, 512) for done in range(8)] == [8, 8, 4, 4, 2, 2, 1, 1]
    assert [pieces(0.0, 0.5, length) for length in (64, 100, 33)] == [2, 2, 1]
    assert pieces(0.0, 0.0, 512) == 1


# --- its parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 4, 6, 12, 24])
def test_a_shape_is_what_transformers_builds(layers: int) -> None:
    shape = by_depth(layers, vocabulary=1000, context=64)
    assert shape.width % 256 == shape.feed_forward % 256 == shape.heads % shape.kv_heads == 0
    with torch.device("meta"):
        assert sum(p.numel() for p in fresh_model(shape, bos=0, eos=1, pad=2).parameters()) == shape.parameters


def test_layers_of_a_fresh_model_add_nothing() -> None:
    model = fresh_model(by_depth(2, vocabulary=320, context=64), bos=1, eos=2, pad=0)
    ids = torch.arange(3, 11).unsqueeze(0)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(input_ids=ids).logits, model.lm_head(model.model.norm(embedded)))
    assert embedded.abs().min() > 0


def test_a_size_gives_the_nearest_depth() -> None:
    shape = by_parameters(parse_count("26M"), vocabulary=8192, context=512)
    assert (shape.layers, shape.width) == (6, 512)
    assert parse_count("1.5b") == 1_500_000_000
    assert by_parameters(1, vocabulary=8192, context=512).layers == 1


def test_a_tokenizer_is_the_same_each_time_and_writes_any_text() -> None:
    texts = [" ".join(WORDS), "Straße 東京 🙂\n\n  tabs\t", "Order 48213 costs 12.50"] * 3
    made = [train_tokenizer(iter(texts), 340, context=64) for _ in range(2)]
    assert made[0].backend_tokenizer.to_str() == made[1].backend_tokenizer.to_str()
    text = "naïve 東京 \u0000 48213 <|im_end|>"
    ids = made[0](text, add_special_tokens=False)["input_ids"]
    assert made[0].decode(ids) == text
    assert ids[-1] == made[0].eos_token_id
    assert len(made[0].tokenize("48213")) == 5


@settings(deadline=None, max_examples=40)
@given(
    documents=st.lists(st.lists(st.integers(0, 69_999), max_size=40), min_size=1, max_size=8),
    vocabulary=st.sampled_from([70_000, 65_536]),
    data=st.data(),
)
def test_shards_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocabulary: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    documents = [[token % vocabulary for token in each] for each in documents]
    with ShardWriter(folder, vocabulary, shard_tokens=16) as writer:
        for each in documents:
            writer.write(each)
    row = [token for each in documents for token in each]
    shards = Shards(folder)
    assert shards.count == len(row)
    start = data.draw(st.integers(0, len(row)))
    length = data.draw(st.integers(0, len(row) - start))
    assert shards.read(start, length).tolist() == row[start : start + length]
    with pytest.raises(IndexError):
        shards.read(start, len(row) - start + 1)


def test_shards_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "killed", 300) as writer:
        writer.write([1, 2, 3])
        raise RuntimeError
    with pytest.raises(ArtifactError, match="no whole token files"):
        Shards(tmp_path / "killed")
    with ShardWriter(tmp_path / "short", 300) as writer:
        writer.write(range(9))
    np.arange(4, dtype="<u2").tofile(tmp_path / "short" / "tokens-00000.bin")
    with pytest.raises(ArtifactError, match="no whole token files"):
        Shards(tmp_path / "short")


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_muon_is_that_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(4, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = Muon([ours], lr=0.02, weight_decay=0.1, dtype=torch.bfloat16)
    torchs = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        torchs.step()
    assert torch.allclose(ours, theirs, atol=2e-3)
    assert not torch.allclose(ours, start, atol=2e-2)


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 20, 50), (3, 50, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape), torch.float32))
        assert values.min() > 0.5
        assert values.max() < 1.3


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_a_clipped_step_is_that_of_clipped_gradients(name: str, limit: float) -> None:
    torch.manual_seed(0)
    start, slopes = torch.randn(2, 6, 4), torch.randn(2, 2, 6, 4)
    found = {}
    for way in ("ours", "torch"):
        parameters = {key: torch.nn.Parameter(each.clone()) for key, each in zip("ab", start, strict=True)}
        made = Optimizers(parameters, name=name, matrices=["a"], weight_decay=0.1)  # type: ignore[arg-type]
        for both in slopes:
            for parameter, slope in zip(parameters.values(), both, strict=True):
                parameter.grad = slope.clone()
            clip = made.clip if way == "ours" else partial(torch.nn.utils.clip_grad_norm_, parameters.values())
            assert clip(limit).item() == pytest.approx(both.norm().item(), rel=1e-6)
            made.step(0.1)
        found[way] = torch.stack([*parameters.values()]).detach()
    assert torch.allclose(found["ours"], found["torch"], atol=1e-6)
