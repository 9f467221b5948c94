"""What `make bench-quantize` measures with, on tiny models: what it says is so, and unequal sides are told apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from peft import PeftModel
from quantizing import GROUPS, compare, conversion, desk, imatrix, models, perplexity, programs, spread
from train import table
from training.measure import BenchError, Row
from transformers import AutoModelForCausalLM

from inhouse.recipe import Recipe
from inhouse_evaluate.divergence import Marked
from inhouse_gguf.convert import convert
from inhouse_gguf.engine import quantize
from support.tiny_llama import make_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's use of it
QUIET: Any = lambda *_: None  # noqa: E731


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of 256 columns, with a tokenizer."""
    return make_model(tmp_path_factory.mktemp("tiny") / "hf")


def write(path: Path, tensors: dict[str, Any]) -> Path:
    """A GGUF file with these arrays; uint16 ones are the bits of bfloat16."""
    writer = GGUFWriter(path, "llama")
    for name, values in tensors.items():
        bits = values.dtype == np.uint16
        writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType.BF16 if bits else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def bits(values: Sequence[float]) -> Any:
    """bfloat16 as its bits, four columns."""
    return torch.tensor(values).bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(-1, 4)


def test_every_group_can_be_imported_and_measured() -> None:
    for name in GROUPS:
        module = __import__(f"quantizing.{name}", fromlist=["measure"])
        assert callable(module.measure)


def test_the_same_files_do_not_differ_and_others_are_told_by_name(tmp_path: Path) -> None:
    one = {"a.weight": np.ones((2, 32), np.float32), "b.weight": np.zeros((2, 32), np.float32)}
    first = write(tmp_path / "first.gguf", one)
    assert compare.differing(first, write(tmp_path / "same.gguf", one)) == []
    changed = {**one, "b.weight": np.ones((2, 32), np.float32)}
    assert compare.differing(first, write(tmp_path / "bytes.gguf", changed)) == ["b.weight (F32) has other bytes"]
    other = {**one, "b.weight": one["b.weight"].astype(np.float16)}
    assert compare.differing(first, write(tmp_path / "type.gguf", other)) == ["b.weight is F32 and F16"]
    lacking = write(tmp_path / "lacking.gguf", {"a.weight": one["a.weight"]})
    assert compare.differing(first, lacking) == ["b.weight is in one file only"]
    wide = {**one, "b.weight": np.zeros((4, 32), np.float32)}
    assert compare.differing(first, write(tmp_path / "shape.gguf", wide)) == ["b.weight is [32, 2] and [32, 4]"]


def test_distance_is_counted_in_steps_of_bfloat16(tmp_path: Path) -> None:
    base = write(tmp_path / "base.gguf", {"a.weight": bits([1.0, 1.0, 4.0, 1.0])})
    ours = write(tmp_path / "ours.gguf", {"a.weight": bits([1.0, -1.0, 0.0, 3.0])})
    near = write(tmp_path / "near.gguf", {"a.weight": bits([1.0 + 2**-7, -1.0, 2**-6, 3.0])})
    found = compare.apart(ours, near, base)
    assert found.steps == 1.0  # the third is half a step of the 4 that it came from
    assert found.equal == 0.5
    far = write(tmp_path / "far.gguf", {"a.weight": bits([1.0, -1.0, 0.0, 3.0 + 2**-4])})
    assert compare.apart(ours, far, base).steps == 4.0


def test_random_llama_and_adapter_load_in_transformers_and_peft(tiny: Path, tmp_path: Path) -> None:
    made = models.random_llama(tmp_path / "made", tiny, models.SMALL)
    adapter = models.random_adapter(tmp_path / "lora", made, 4)
    model = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    assert model.dtype == torch.bfloat16
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    before = AutoModelForCausalLM.from_pretrained(made, dtype="auto").state_dict()
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert models.random_llama(tmp_path / "made", tiny, models.LARGE) == made  # made once
    convert(made, tmp_path / "made.gguf", "BF16", QUIET)


class Fixed:
    """An engine that gives the logits it was made with."""

    def __init__(self, logits: Sequence[Any]) -> None:
        self.logits = [np.asarray(each, np.float32) for each in logits]

    def distributions(self, sequences: Sequence[Sequence[int]]) -> Iterator[Any]:
        assert [len(each) - 1 for each in sequences] == [len(each) for each in self.logits]
        yield from self.logits


def test_divergence_and_perplexity_of_known_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "ROWS", 2)  # texts longer than what is compared at once
    even, sharp = np.zeros(4), np.log([0.5, 0.25, 0.125, 0.125])
    texts = [[0, 0, 1, 0], [0, 2]]
    known: Any = Fixed([[even, sharp, even], [sharp]])
    reference = tmp_path / "reference.f32"
    spread.write_every(known, texts, reference)
    same = list(spread.spreads(known, texts, reference))
    assert [len(each.nats) for each in same] == [3, 1]
    assert spread.nats(same) == pytest.approx(0, abs=1e-7)
    assert spread.same_top(same) == 1
    assert spread.perplexity(same) == pytest.approx((4 * 4 * 4 * 8) ** (1 / 4))
    other: Any = Fixed([[even, even, even], [even]])
    found = list(spread.spreads(other, texts, reference))
    apart = np.log(4) - 1.75 * np.log(2)  # KL(sharp || even)
    assert np.concatenate([each.nats for each in found]) == pytest.approx([0, apart, 0, apart], abs=1e-6)
    assert spread.perplexity(found) == pytest.approx(4)


def test_perplexity_before_and_after_of_a_tiny_model(tiny: Path, tmp_path: Path) -> None:
    sentence = "Customers may return what they don't like; it's free within 30 days! "
    text = f" \n = One = \n \n {sentence * 20}\n = Two = \n \n = = Part = = \n {sentence * 20}"
    corpus = perplexity.write_corpus(text, tmp_path / "corpus.jsonl")
    rows = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert [each.split(" = \n")[0] for each in rows] == [" = One", " = Two"]
    assert "".join(rows).strip() == text.strip()
    kinds = ("q8_0", "q4_0", "iq2_xxs")
    points, theirs = perplexity.every_type(tiny, text, corpus, kinds, (64, 2, 200), tmp_path)
    before, eight, four, two = points
    assert before.perplexity == pytest.approx(theirs, rel=perplexity.TOLERANCE)
    assert before.nats == pytest.approx(0, abs=1e-6)
    assert 0 < eight.nats < four.nats < two.nats
    assert before.bytes > eight.bytes > four.bytes > two.bytes
    assert [each.matrix for each in points] == [False, False, True, True]
    assert not list(tmp_path.glob("*.f32"))
    perplexity.plot(points, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    first, *others = perplexity._rows(points, theirs)
    assert first.peer == theirs
    assert [each.ours for each in others] == [each.perplexity for each in points[1:]]


def test_a_type_that_cannot_be_made_is_told_and_left_out_of_the_rows(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tiny, tmp_path / "exact.gguf", "BF16", QUIET)
    point = perplexity._measured("iq1_s", tmp_path / "exact.gguf", None, [[1, 2, 3]], tmp_path / "reference.f32")
    assert "imatrix" in point.why
    assert point.why in point.line()
    assert len(perplexity._rows([perplexity.Point("f16", perplexity=2.0), point], 2.0)) == 1


def test_transformers_that_computes_otherwise_ends_the_measurement(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "plain_perplexity", lambda base, texts: 1.0)
    corpus = perplexity.write_corpus(" = One = \n The order 48213 was shipped.", tmp_path / "corpus.jsonl")
    with pytest.raises(BenchError, match="do not compute the same"):
        perplexity.every_type(tiny, "The order 48213 was shipped. " * 20, corpus, (), (32, 2, 32), tmp_path)


def test_importance_matrix_is_measured_on_all_tokens_and_on_parts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chat(number: int) -> str:
        turns = [
            {"role": "system", "content": "You answer for a shop."},
            {"role": "user", "content": f"Where is order {number}?"},
            {"role": "assistant", "content": f"Order {number} was shipped on {number % 28 + 1} May."},
        ]
        return json.dumps({"messages": turns}) + "\n"

    (tmp_path / "train.jsonl").write_text("".join(chat(100 + n) for n in range(20)))
    (tmp_path / "heldout.jsonl").write_text("".join(chat(500 + n) for n in range(4)))
    monkeypatch.setattr(imatrix, "CONTEXT", 512)  # the tiny model knows no more
    texts, found = imatrix.every_type(tiny, tmp_path, ("q4_0",), (400, 3), tmp_path)
    assert len(texts) == 3
    places = imatrix.views(texts)
    counted = {name: sum(int(pick(each).sum()) for each in texts) for name, pick in places.items()}
    assert counted["all tokens"] == sum(len(each.ids) - 1 for each in texts)
    assert 0 < counted["answers"] < counted["after the system text"] < counted["all tokens"]
    without, given = imatrix.divergences(found["q4_0"], texts, places["all tokens"])
    assert without > 0
    assert given > 0
    assert without != given
    rows = imatrix._rows(texts, found)
    assert [row.unit for row in rows] == ["nats", "nats", "nats", "MB"]
    assert rows[0].ratio == pytest.approx(given / without)
    assert rows[0].met is (given / without <= imatrix.RATIO)


def test_system_text_is_what_all_chats_begin_with() -> None:
    texts = [Marked([5, 6, 7, 8, 9], [(3, 5)]), Marked([5, 6, 1, 8], [(2, 4)])]
    places = imatrix.views(texts)
    assert places["after the system text"](texts[0]).tolist() == [False, True, True, True]
    assert places["answers"](texts[0]).tolist() == [False, False, True, True]
    assert places["answers"](texts[1]).tolist() == [False, True, True]


def test_our_command_writes_what_the_functions_write(tiny: Path, tmp_path: Path) -> None:
    assert conversion.our_command(tiny, "q4_k_m", tmp_path) > 0
    convert(tiny, tmp_path / "exact.gguf", "BF16", QUIET)
    quantize(tmp_path / "exact.gguf", tmp_path / "theirs.gguf", "q4_k_m", 1, QUIET)
    assert compare.differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []
    assert not (tmp_path / "home").exists()
    conversion.check({}, tmp_path)
    quantize(tmp_path / "exact.gguf", tmp_path / "theirs.gguf", "q8_0", 1, QUIET)
    with pytest.raises(BenchError, match="Q8_0"):
        conversion.check({}, tmp_path)


def test_program_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(BenchError, match="ended with 3"):
        programs.run([sys.executable, "-c", "import sys; print('no room'); sys.exit(3)"])
    with pytest.raises(BenchError, match="no room"):
        programs.run([sys.executable, "-c", "import sys; print('no room'); sys.exit(3)"])


def test_turns_and_their_row(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> Any:
        return lambda: order.append(name) or seconds

    answers = programs.in_turns(3, {"ours": work("ours", 1.0), "theirs": work("theirs", 4.0)})
    assert order == ["ours", "theirs"] * 3
    row = programs.faster("merging", "theirs", 0.5, answers, ours="ours")
    assert (row.ours, row.peer, row.ratio, row.met) == (1.0, 4.0, 0.25, True)
    assert not programs.faster("merging", "theirs", 0.2, answers, ours="ours").met
    capsys.readouterr()
    table([row, Row("small", "peer", 0.0603, 0.0811, 0.743, "nats", "<= 0.85 times", False)])
    said = capsys.readouterr().out
    assert "0.0603 nats" in said
    assert "NO" in said


def test_plain_takes_the_recipes_second_pass_away() -> None:
    def rounding(sets: dict[str, Any]) -> Any:
        loaded = Recipe.load(desk.RECIPE, set=[f"{key}={value}" for key, value in sets.items()], environment={})
        (finetune,) = (each.section for each in loaded.steps if each.name == "finetune")
        return finetune.tables["lora"]["quantization_aware"]

    assert rounding({}) == "q4_0"
    assert rounding({**desk.PLAIN, **desk.QUICK}) == ""
