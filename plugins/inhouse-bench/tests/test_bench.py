"""A small shape goes all the way: made, quantised, measured, judged, taken away."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from inhouse.errors import EngineError, RecipeError, ResourceError
from inhouse.values import Completion
from inhouse_bench import workshop
from inhouse_bench.command import command
from inhouse_bench.goals import Figures, judge
from inhouse_bench.shape import SPECIAL, VOCABULARY, Shape, write_model
from inhouse_bench.workshop import Workshop, decoding_rates, parse_types
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.runtime import LlamaCppRuntime
from support.console import here

SMALL = ["bench", "seven-b", "--layers", "2", "--width", "256", "--context", "128", "--threads", "1"]


def quiet(*_: Any) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_model(Shape(1, 128), path, quiet)
    return path


def _small(folder: Path, *types: str, keep: bool = False) -> Workshop:
    return Workshop(folder, Shape(1, 128), types, 128, 1, keep)


def test_seven_b_has_the_dimensions_of_llama_2() -> None:
    shape = Shape()
    assert shape.parameters == 6_738_415_616  # as Llama-2 7B's card has it
    assert shape.inner == 11008
    assert 13.4e9 < 2 * shape.parameters < 13.5e9
    assert 17.5e9 < sum(workshop._estimate(shape, each) for each in ("f16", "q4_k_m")) < 18e9


def test_the_file_is_what_its_shape_says(model: Path) -> None:
    reader = GGUFReader(model)
    found = {each.name: each for each in reader.tensors}
    assert {name: tuple(int(n) for n in reversed(each.shape)) for name, each in found.items()} == dict(
        Shape(1, 128).tensors()
    )
    assert Counter(each.tensor_type.name for each in found.values()) == {"F16": 9, "F32": 3}
    embedding, head = (np.asarray(found[name].data, np.float32) for name in ("token_embd.weight", "output.weight"))
    assert abs(float(embedding.std()) - 0.02) < 1e-4
    assert abs(float(embedding.mean())) < 1e-4
    assert not head[: len(SPECIAL)].any()
    assert head[len(SPECIAL) :].any(axis=1).all()
    assert (found["output_norm.weight"].data == 1).all()
    assert not np.array_equal(found["blk.0.attn_q.weight"].data, found["blk.0.attn_k.weight"].data)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(set(tokens)) == len(tokens) == VOCABULARY


def test_the_same_shape_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    write_model(Shape(1, 128), tmp_path / "again.gguf", quiet)
    assert (tmp_path / "again.gguf").read_bytes() == model.read_bytes()


def test_a_stopped_writing_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if name.startswith("blk.0.ffn"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model(Shape(1, 128), tmp_path / "model.gguf", stop)
    assert list(tmp_path.iterdir()) == []


def test_the_whole_of_a_small_shape(tmp_path: Path) -> None:
    made = here([*SMALL, "--folder", "work", "--types", "q4_k_s,q4_k_m", "--json"], tmp_path)
    told = json.loads(made.stdout)
    assert made.returncode == (0 if told["met"] else 1), made.stderr
    assert told["shape"] == {"layers": 2, "width": 256}
    assert [each["type"] for each in told["models"]] == ["f16", "q4_k_s", "q4_k_m"]
    assert all(each["tokens_per_second"] > 0 for each in told["models"])
    plain, *quantised = told["models"]
    assert plain["memory"] is None
    assert plain["tokens_per_second"] == median(each["plain_rate"] for each in quantised)
    for each in quantised:
        assert 0.25 < each["bytes"] / plain["bytes"] < 0.4
        assert each["memory"] > each["bytes"]
    rows = {(each["type"], each["what"]): each for each in told["goals"]}
    assert rows["q4_k_s", "file"]["met"] is True
    assert rows["f16", "decoding"]["met"] is None
    assert told["met"] == all(each["met"] is not False for each in told["goals"])
    assert "writing random weights: 100 %" in made.stderr
    assert not (tmp_path / "work").exists()


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    told: list[str] = []
    _small(tmp_path / "work", "q8_0", keep=True).run(lambda doing, *_: told.append(doing))
    assert {each.relative_to(tmp_path / "work").as_posix() for each in (tmp_path / "work").rglob("*.gguf")} == {
        "f16/model.gguf",
        "q8_0/model.gguf",
    }
    assert {"writing random weights", "quantising to q8_0", "opening f16", "measuring q8_0 beside f16"} <= set(told)
    told.clear()
    figures = _small(tmp_path / "work", "q8_0").run(lambda doing, *_: told.append(doing))
    assert {each.split(" ")[0] for each in told} == {"opening", "measuring", "filling"}
    assert [each.type for each in figures] == ["f16", "q8_0"]
    assert not (tmp_path / "work").exists()


def test_the_cache_type_reaches_the_engine_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Seen(LlamaCppRuntime):
        def __init__(self, options: LlamaCppOptions) -> None:
            asked.append(options.cache_type)
            super().__init__(options)

    monkeypatch.setattr(workshop, "LlamaCppRuntime", Seen)
    made = CliRunner().invoke(
        command, [*SMALL[1:], "--folder", str(tmp_path / "work"), "--cache-type", "q8_0", "--json"]
    )
    assert asked == ["q8_0"], made.output
    assert json.loads(made.stdout)["cache_type"] == "q8_0"
    shops = [Workshop(tmp_path, Shape(1, 128), ("q8_0",), 128, 1, True, kind) for kind in ("f16", "q4_0")]
    assert shops[0]._settings() != shops[1]._settings()  # figures of one do not stand for the other


@pytest.mark.parametrize("at", ["writing", "quantising", "opening", "measuring"])
def test_a_stopped_run_goes_on(tmp_path: Path, at: str) -> None:
    told: list[str] = []

    def stop(doing: str, *_: Any) -> None:
        if doing.startswith(at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _small(tmp_path / "work", "q8_0").run(stop)
    figures = _small(tmp_path / "work", "q8_0").run(lambda doing, *_: told.append(doing))
    assert [each.type for each in figures] == ["f16", "q8_0"]
    done = {"writing": 0, "quantising": 1, "opening": 2, "measuring": 2}[at]
    order = ["writing random weights", "quantising to q8_0", "opening f16", "measuring q8_0 beside f16"]
    assert [each for each in dict.fromkeys(told) if each in order] == order[done:]


def test_without_room_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 12_000_000_000})
    monkeypatch.setattr(workshop.shutil, "disk_usage", lambda _: usage)
    made = here(["bench", "seven-b", "--folder", "work"], tmp_path)
    assert made.returncode == 2
    assert "needs 17.9 GB of disk, 12.0 GB are free" in made.stderr
    assert [each.name for each in (tmp_path / "work").iterdir()] == ["bench.json"]
    with pytest.raises(ResourceError):
        Workshop(tmp_path / "more", Shape(), ("q4_k_m",), 2048, 0, True).run(quiet)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--types", "q9_9"], "there is no type 'q9_9'"),
        (["--types", "iq2_xs"], "there is no type 'iq2_xs'"),
        (["--types", ","], "names no type"),
        (["--width", "200"], "no multiple of 128"),
        (["--folder", "other"], "was not made by this benchmark"),
        (["--folder", "spoilt"], "is no note of this benchmark"),
        (["--folder", "larger"], "holds models of 3 x 128"),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, arguments: list[str], said: str) -> None:
    for name, note in (
        ("spoilt", '{"shape": {"layers": 2, "width": 3}}'),
        ("larger", '{"shape": {"layers": 3, "width": 128}, "settings": [], "figures": {}}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.json").write_text(note)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    made = here([*SMALL, *arguments], tmp_path)
    assert made.returncode == 2
    assert said in made.stderr
    assert (tmp_path / "other" / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "seven-b").exists()


def test_goals() -> None:
    plain = Figures("f16", 13_480_000_000, 1.6, 1.6)
    good = judge([plain, Figures("q4_k_s", 3_860_000_000, 4.72, 1.6, 4_400_000_000)])
    assert [each.met for each in good] == [None, None, True, True, True]
    bad = judge([plain, Figures("q4_k_m", 4_100_000_000, 4.31, 1.6, 4_800_000_000), Figures("q8_0", 7, 9.0, 1.0, 8)])
    assert [each.met for each in bad] == [None, None, False, False, False, None, True, True]
    shown = "4.72 tokens/s, 2.95 times F16's 1.60"
    assert good[3].line() == ("q4_k_s", "decoding", shown, "at least 2.7 times", "yes")


def test_types_once_each() -> None:
    assert parse_types(" Q4_K_S, q4_k_s ,q8_0") == ("q4_k_s", "q8_0")
    with pytest.raises(RecipeError):
        parse_types("f16")


class Answering:
    """An engine whose answers have ``tokens`` tokens; it notes in ``turns`` that it was asked for a whole one."""

    def __init__(self, name: str, tokens: int, turns: list[str]) -> None:
        self.name, self.tokens, self.turns = name, tokens, turns

    def generate(self, requests: Any) -> list[Completion]:
        if requests[0].max_tokens > 1:
            self.turns.append(self.name)
        return [Completion("", "stop", 1, self.tokens, 0.1)]


def test_engines_take_turns() -> None:
    turns: list[str] = []
    engines: list[Any] = [Answering("a", 64, turns), Answering("b", 64, turns)]
    assert len(decoding_rates(engines, quiet)) == 2
    assert turns == ["a", "b"] * workshop.TURNS


def test_an_answer_that_ends_is_no_rate() -> None:
    engines: list[Any] = [Answering("a", 3, [])]
    with pytest.raises(EngineError, match="after 3 of 64"):
        decoding_rates(engines, quiet)
