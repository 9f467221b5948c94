"""Importance matrices: the sums are those of the model, and a file made with one errs less where it matters."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from attrs import evolve
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

import inhouse_gguf.importance
from inhouse import Kernel, Recipe
from inhouse.errors import DataError, EngineError, StepError
from inhouse.plugins import Registry
from inhouse.values import Artifact, StepRecord
from inhouse_gguf import IGNORING_TYPES, MATRIX_TYPES, GgufOptions, ggml
from inhouse_gguf.convert import convert, places
from inhouse_gguf.engine import Collected, collect, quantize
from inhouse_gguf.families import family_of
from inhouse_gguf.imatrix import Matrix, read_matrix, write_matrix
from inhouse_gguf.quantizer import GgufQuantizer
from inhouse_gguf.source import open_source
from support.tiny_llama import make_model


def rows_of(chats: Artifact) -> list[Any]:
    import json

    return [json.loads(line)["messages"] for line in (chats.path / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in float32, as folder and as GGUF."""
    folder = tmp_path_factory.mktemp("exact")
    make_model(folder / "hf", dtype=torch.float32)
    convert(folder / "hf", folder / "exact.gguf", "F32", lambda *_: None)
    return folder / "hf", folder / "exact.gguf"


def computed(source: Path, target: Path, *, tokens: int = 1 << 20, **more: Any) -> Collected:
    settings: dict[str, Any] = {"chats": None, "corpus": None, "seed": 3, "threads": 1, "progress": lambda *_: None}
    return collect(source, target, tokens=tokens, **{**settings, **more})


def hooked(folder: Path, sequences: list[list[int]]) -> dict[str, np.ndarray[Any, Any]]:
    """Sums of squares of what goes into each linear layer, by the layer's name in GGUF, from torch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    source = open_source(folder)
    sums: dict[str, np.ndarray[Any, Any]] = {}
    for name, place in places(source, family_of(source)).items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        if place.startswith("blk.") and isinstance(layer, torch.nn.Linear):

            def add(_: Any, inputs: Any, place: str = place) -> None:
                squares = inputs[0].double().square().sum((0, 1)).numpy()
                sums[place] = sums.get(place, 0.0) + squares

            layer.register_forward_pre_hook(add)
    with torch.no_grad():
        for ids in sequences:
            model(torch.tensor([ids]))
    return sums


def test_the_sums_are_those_of_the_model(exact: tuple[Path, Path], chats: Artifact, tmp_path: Path) -> None:
    folder, source = exact
    told: list[tuple[int, int]] = []
    made = computed(
        source,
        tmp_path / "m",
        chats=chats.path / "train.jsonl",
        progress=lambda done, all_, _: told.append((done, all_)),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sequences = [tokenizer.apply_chat_template(each, return_dict=True)["input_ids"] for each in rows_of(chats)]
    wanted = hooked(folder, sequences)
    tokens = sum(map(len, sequences))
    matrix = read_matrix(tmp_path / "m")
    assert made == Collected(tokens, "text/chat", 0)
    assert (matrix.tokens, matrix.datasets) == (tokens, ("text/chat",))
    assert len(told) > 2 and told[-1] == (tokens, tokens)
    assert matrix.entries.keys() == wanted.keys() and len(wanted) == 14
    for name, entry in matrix.entries.items():
        assert entry.counts.tolist() == [tokens]
        np.testing.assert_allclose(entry.sums[0], wanted[name], rtol=1e-3)


def test_documents_are_cut_and_a_draw_is_seeded(
    exact: tuple[Path, Path], data: Callable[..., Artifact], tmp_path: Path
) -> None:
    source = exact[1]
    corpus = data("text/corpus", [{"text": f"Article {n}. " + "Returns are free. " * 90} for n in range(9)])
    path = corpus.path / "corpus.jsonl"
    made = computed(source, tmp_path / "a", tokens=1500, corpus=path)
    assert (made.text, made.tokens) == ("text/corpus", 1500)
    computed(source, tmp_path / "b", tokens=1500, corpus=path)
    computed(source, tmp_path / "c", tokens=1500, corpus=path, seed=4)
    same, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert same == again != other


def test_an_output_layer_of_its_own_is_watched(tmp_path: Path, chats: Artifact) -> None:
    folder = make_model(tmp_path / "hf", dtype=torch.float32)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    convert(folder, tmp_path / "exact.gguf", "F32", lambda *_: None)
    made = computed(tmp_path / "exact.gguf", tmp_path / "m", chats=chats.path / "train.jsonl")
    entry = read_matrix(tmp_path / "m").entries["output.weight"]
    assert entry.counts.tolist() == [made.tokens] and entry.sums.shape == (1, 256)


def weighted_error(source: Path, made: Path, means: Mapping[str, Any]) -> float:
    """Sum over the model's matrices of mean square of the input times squared error of the weight."""
    exact, held = ({each.name: each for each in GGUFReader(path).tensors} for path in (source, made))
    total = 0.0
    for name, mean in means.items():
        was, now = (gguf.dequantize(each[name].data, each[name].tensor_type) for each in (exact, held))
        total += float((np.square(was.astype(np.float64) - now) * mean).sum())
    return total


@pytest.mark.parametrize("type_", ["q4_0", "q4_k_m", "iq4_nl", "iq4_xs", "q3_k_m", "q5_k_m", "q6_k", "q2_k", "q5_1"])
def test_the_weighted_error_falls_at_the_same_size(
    exact: tuple[Path, Path], chats: Artifact, tmp_path: Path, type_: str
) -> None:
    source, matrix = exact[1], tmp_path / "m"
    computed(source, matrix, chats=chats.path / "train.jsonl")
    quantize(source, tmp_path / "without", type_, 1, lambda *_: None)
    quantize(source, tmp_path / "with", type_, 1, lambda *_: None, matrix)
    without, with_ = (tmp_path / name for name in ("without", "with"))
    assert without.stat().st_size == with_.stat().st_size
    assert without.read_bytes() != with_.read_bytes()
    means = {name: each.means() for name, each in read_matrix(matrix).entries.items()}
    assert weighted_error(source, with_, means) < 0.99 * weighted_error(source, without, means)


def test_types_that_ignore_a_matrix_are_known() -> None:
    draw = np.random.default_rng(1)
    values = draw.standard_normal((4, 256)).astype(np.float32)
    weights = np.exp(draw.standard_normal(256)).astype(np.float32)
    kinds = {name: name.removesuffix("_moe").upper() for name in IGNORING_TYPES}
    kinds |= {
        name: name.upper() for name in ("q6_k", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl", "iq4_xs", "iq3_s", "q2_k")
    }
    for name, kind in kinds.items():
        type_ = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[type_]
        packed = np.zeros((2, values.size // block * size), np.uint8)
        for row, matrix in zip(packed, (None, weights.ctypes.data), strict=True):
            ggml.library().ggml_quantize_chunk(type_.value, values.ctypes.data, row.ctypes.data, 0, 4, 256, matrix)
        assert np.array_equal(*packed) == (name in IGNORING_TYPES), name


def run(step: Any, model: Path, *inputs: Artifact | None, digest: str = "digest", **options: Any) -> Path:
    settings = GgufOptions(threads=1, **options)
    GgufQuantizer(settings).quantize(step, Artifact("model/hf", model, digest), *inputs)
    found: Path = step.output / "model.gguf"
    return found


@pytest.mark.parametrize("type_", MATRIX_TYPES)
def test_small_types_work_with_a_matrix(step: Any, model: Path, chats: Artifact, type_: str) -> None:
    assert GgufQuantizer(GgufOptions(type=type_)).probe() is None
    path = run(step, model, chats, type=type_)
    assert path.stat().st_size > 0
    assert step.facts["imatrix_entries"] == 14
    assert step.facts["imatrix_text"] == "text/chat"
    assert step.facts["imatrix_tokens"] == read_matrix(step.output / "model.imatrix").tokens > 1000
    assert step.facts["bits_per_weight"] < 5.5


def test_small_types_are_refused_without(step: Any, model: Path, data: Callable[..., Artifact], tmp_path: Path) -> None:
    assert "imatrix is off" in str(GgufQuantizer(GgufOptions(type="iq2_xs", imatrix="off")).probe())
    with pytest.raises(DataError, match="needs training text: the recipe has no data") as told:
        run(step, model, type="iq2_xs")
    assert "imatrix_file" in str(told.value.hint)
    with pytest.raises(DataError, match="there is none in the data"):
        run(step, model, data("text/chat", []), type="iq2_xs")
    with pytest.raises(StepError, match="importance matrix"):
        run(step, model, type="iq2_xs", imatrix="off")
    assert not (step.output / "model.gguf").exists()


def test_auto_takes_one_where_there_is_text_and_gain(step: Any, model: Path, chats: Artifact, tmp_path: Path) -> None:
    for name, inputs, options, wanted in [
        ("text", (chats,), {"type": "q4_0"}, True),
        ("none", (), {"type": "q4_0"}, False),
        ("ignoring", (chats,), {"type": "q8_0"}, False),
        ("off", (chats,), {"type": "q4_0", "imatrix": "off"}, False),
        ("plain", (chats,), {"type": "f16"}, False),
    ]:
        here = evolve(step, output=tmp_path / name, checkpoints=tmp_path / f"{name}-c", facts={})
        here.output.mkdir()
        here.checkpoints.mkdir()
        run(here, model, *inputs, imatrix_tokens=600, **options)
        assert (here.output / "model.imatrix").exists() == ("imatrix_tokens" in here.facts) == wanted, name
    assert (tmp_path / "none" / "model.gguf").read_bytes() == (tmp_path / "off" / "model.gguf").read_bytes()
    with pytest.raises(DataError, match="needs training text"):
        run(step, model, type="q4_0", imatrix="on")


@pytest.mark.parametrize(
    ("aware", "options", "wanted"),
    [
        ("q4_0", {"type": "q4_0"}, False),
        ("auto", {"type": "q4_0"}, False),
        ("q4_0", {"type": "q4_k_m"}, True),
        ("", {"type": "q4_0"}, True),
        ("q4_0", {"type": "q4_0", "imatrix": "on"}, True),
    ],
)
def test_a_model_trained_for_the_type_is_stored_as_trained(
    step: Any, model: Path, chats: Artifact, aware: str, options: dict[str, Any], wanted: bool
) -> None:
    maker = StepRecord(
        "finetune", "trainer", "lora", 1.0, False, 1.0, 0,
        options={"quantization_aware": aware}, products={"model/hf": "mine"},
    )  # fmt: skip
    other = evolve(maker, options={"quantization_aware": "q4_0"}, products={"model/hf": "another"})
    step.history = (maker, other)
    run(step, model, chats, digest="mine", imatrix_tokens=600, **options)
    assert (step.output / "model.imatrix").exists() == wanted
    assert any("trained for q4_0" in each for each in step.notices) != wanted


def test_a_file_is_taken_instead_and_kept(step: Any, model: Path, chats: Artifact, tmp_path: Path) -> None:
    wanted = run(step, model, chats, type="q4_0").read_bytes()
    kept = step.output / "model.imatrix"
    own = evolve(step, output=tmp_path / "a", facts={})
    own.output.mkdir()
    assert run(own, model, type="q4_0", imatrix_file=kept).read_bytes() == wanted
    assert (own.output / "model.imatrix").read_bytes() == kept.read_bytes()
    assert own.facts["imatrix_text"] == "file"


def test_a_matrix_of_another_model_is_refused(step: Any, model: Path, chats: Artifact, tmp_path: Path) -> None:
    run(step, model, chats, type="q4_0", imatrix_tokens=600)
    matrix = read_matrix(step.output / "model.imatrix")
    other = tmp_path / "other.imatrix"
    for entries, words in [
        (
            {**matrix.entries, "blk.2.attn_q.weight": matrix.entries["blk.1.attn_q.weight"]},
            r"no blk\.2\.attn_q\.weight",
        ),
        (
            {**matrix.entries, "blk.1.ffn_down.weight": matrix.entries["blk.1.ffn_up.weight"]},
            r"256 values for blk\.1\.ffn_down\.weight, this one 512",
        ),
        (
            {name: each for name, each in matrix.entries.items() if "blk.1" not in name},
            r"nothing for blk\.1\..*\(7 of 14",
        ),
    ]:
        write_matrix(Matrix(entries), other)
        with pytest.raises(DataError, match=words) as told:
            run(step, model, type="q4_0", imatrix_file=other)
        assert told.value.where == str(other)


def kill_collector(*_: Any) -> None:
    for each in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        if "inhouse_gguf.collector" in Path(f"/proc/{each}/cmdline").read_text():
            os.kill(int(each), 9)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_a_killed_child_is_told_and_the_next_one_goes_on(
    exact: tuple[Path, Path], chats: Artifact, tmp_path: Path
) -> None:
    source, path = exact[1], chats.path / "train.jsonl"
    path.write_text(path.read_text() * 10)  # enough to be killed in the middle
    whole = computed(source, tmp_path / "whole", chats=path)
    with pytest.raises(EngineError, match=r"died while computing the importance matrix \(killed by SIGKILL\)"):
        computed(source, tmp_path / "m", chats=path, every=0.0, progress=kill_collector)
    assert not (tmp_path / "m").exists()
    with np.load(tmp_path / "m.sums") as kept:
        done = {name: kept[name] for name in kept.files}
    assert 0 < int(done["counts:blk.0.attn_q.weight"][0]) < whole.tokens
    doubled = {name: 2 * each if name.startswith("squares:") else each for name, each in done.items()}
    for parts, same in ((doubled, False), (done, True)):  # what is kept is what it goes on from
        with (tmp_path / "m.sums").open("wb") as file:
            np.savez(file, **parts)
        assert computed(source, tmp_path / "m", chats=path) == whole
        assert ((tmp_path / "m").read_bytes() == (tmp_path / "whole").read_bytes()) == same
    assert not (tmp_path / "m.sums").exists()
    (tmp_path / "m.sums").write_bytes(b"PK\x03\x04 broken")
    computed(source, tmp_path / "m", chats=path)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_step_stopped_while_computing_goes_on(step: Any, model: Path, chats: Artifact, tmp_path: Path) -> None:
    whole = evolve(step, output=tmp_path / "a", checkpoints=tmp_path / "b")
    whole.output.mkdir()
    whole.checkpoints.mkdir()
    wanted = run(whole, model, chats, type="q4_k_m").read_bytes()
    for stop_at in ("importance", "quantising blk.1", ""):
        here = evolve(step, stop_at=stop_at, told=[])
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                run(here, model, chats, type="q4_k_m")
        else:
            assert run(here, model, chats, type="q4_k_m").read_bytes() == wanted
    assert not any(each.startswith("importance") for each in here.told)  # the last run found the matrix


def test_other_layouts_of_tensors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml.check_layout()
    monkeypatch.setattr(ggml, "OBJECT", 40)
    with pytest.raises(EngineError, match="laid out in a way that is not known here: size is"):
        ggml.check_layout()


def test_a_recipes_training_text_comes_to_the_quantizer(
    model: Path, chats: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.toml").write_text(
        f"""
name = "small"
[target]
context = 128
[base]
use = "local"
[base.local]
path = "{model}"
[data]
use = "jsonl"
[data.jsonl]
chat = "{chats.path / "train.jsonl"}"
[quantize]
use = "gguf"
[quantize.gguf]
type = "iq2_xs"
imatrix_tokens = 600
""",
        encoding="utf-8",
    )
    plugins = {"builtin", "data", "smollm2", "gguf", "llamacpp"}
    registry = Registry([each for each in entry_points(group="inhouse") if each.name in plugins])
    made = Kernel(tmp_path / "home", registry=registry).run(Recipe.load(tmp_path / "recipe.toml", environment={}))
    assert made["quantize"].meta["imatrix_tokens"] == 600
    assert sorted(each.name for each in made["quantize"].path.iterdir()) == ["model.gguf", inhouse_gguf.importance.NAME]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "f16", "imatrix": "on"}, "no use: f16 is not quantised"),
        ({"imatrix": "off", "imatrix_file": Path("x")}, "'imatrix' is off"),
        ({"imatrix": "maybe"}, "maybe"),
        ({"imatrix_tokens": 0}, "imatrix_tokens"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GgufOptions(**options)
