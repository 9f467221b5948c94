"""The gate ``parity`` on tiny models that were really tuned, converted and loaded, and whose answers do not end, or are
too long for the context."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inhouse.errors import StepError
from support.tiny_llama import make_model

from .test_gates import RECIPE, Runs
from .test_quantization_aware import write_chats

END = "<|turn|>"
"""Ends turns here. llama.cpp knows <|im_end|> by its text, and would stop at it whatever the file says."""
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's use of it
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stops")
    base = make_model(folder / "base", initializer_range=0.05)
    for name in FILES:
        (base / name).write_text((base / name).read_text(encoding="utf-8").replace("<|im_end|>", END), encoding="utf-8")
    write_chats(folder / "train.jsonl", 24, 100)
    write_chats(folder / "heldout.jsonl", 8, 500)
    (folder / "recipe.toml").write_text(RECIPE.replace('"q8_0"', '"f32"'), encoding="utf-8")
    return folder


@pytest.fixture
def run(project: Path) -> Runs:
    return Runs(project)


@pytest.fixture
def said_end(project: Path) -> Iterator[None]:
    """The tokenizer's settings name another token as the end than the one that the template ends turns with, and that
    transformers, by generation_config.json, stops at."""
    path = project / "base" / "tokenizer_config.json"
    before = path.read_text(encoding="utf-8")
    assert json.loads(before)["eos_token"] == END
    path.write_text(json.dumps({**json.loads(before), "eos_token": "<|endoftext|>"}), encoding="utf-8")
    yield
    path.write_text(before, encoding="utf-8")


def failed(run: Runs, *sets: str) -> tuple[StepError, dict[str, Any]]:
    """The error, and the row of parity."""
    with pytest.raises(StepError, match="gate parity failed") as caught:
        run(*sets)
    assert caught.value.exit_code == 1
    (row,) = (
        each for each in json.loads(Path(str(caught.value.where)).read_text())["gates"] if each["gate"] == "parity"
    )
    return caught.value, row


def test_where_the_end_is_the_right_one_it_passes(run: Runs) -> None:
    assert run()["parity"] == "passed"
    assert "2 answers end by themselves" in run.noted["parity"]["measured"]


def test_a_tokenizer_that_names_another_end_is_found(run: Runs, said_end: None) -> None:
    error, row = failed(run)
    assert f"'{END}' ends a turn and does not end generation in the GGUF: '<|endoftext|>' does" in error.message
    assert row["figures"]["ended"] == 2  # the tuned model's do, in transformers
    assert len([each for each in row["figures"]["wrong"] if "the stop token does not stop" in each]) == 2
    assert row["change"].startswith(f'"eos_token": "{END}" in tokenizer_config.json of the base')
    assert row["change"] in str(error.hint)


def test_an_end_that_llama_cpp_knows_by_its_text_is_none_to_complain_of(run: Runs) -> None:
    """As in Phi-3 and Gemma: the file's keys name another end than the one of turns, and answers end all the same."""
    base = run.project / "base"
    before = {name: (base / name).read_text(encoding="utf-8") for name in FILES}
    try:
        for name, text in before.items():
            (base / name).write_text(text.replace(END, "<|im_end|>"), encoding="utf-8")
        config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
        (base / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
        assert run()["parity"] == "passed"
        assert "2 answers end by themselves" in run.noted["parity"]["measured"]
    finally:
        for name, text in before.items():
            (base / name).write_text(text, encoding="utf-8")


def test_a_file_that_was_given_another_end_is_found(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own files agree: the conversion is at fault."""
    from inhouse_gguf import tokenizer

    keep = tokenizer._keep_template_plain

    def spoil(special: Any) -> None:
        keep(special)
        special.special_token_ids["eos"] = 0

    monkeypatch.setattr(tokenizer, "_keep_template_plain", spoil)
    _, row = failed(run, "seed=1")
    ends = [each for each in row["figures"]["wrong"] if "the stop token does not stop" in each]
    assert len(ends) == 2
    assert "an answer that the tuned model ends after" in ends[0]
    assert "the conversion is at fault" in row["change"]


@pytest.fixture
def template(project: Path) -> Iterator[Path]:
    """The base's, which a test may change."""
    path = project / "base" / "chat_template.jinja"
    before = path.read_text(encoding="utf-8")
    yield path
    path.write_text(before, encoding="utf-8")


def test_a_context_in_which_nothing_can_be_followed_fails(run: Runs, template: Path) -> None:
    """Every chat begins with so much that no answer of 32 tokens has room after it."""
    template.write_text(
        "You are the service desk of a shop for tents and lanterns, and brief. " * 2 + template.read_text()
    )
    error, row = failed(run)
    assert row["figures"]["followed"] == 0
    assert row["figures"]["chats"] == 33  # their tokens are the same
    assert "no answer was followed: no chat with 32 tokens of one fits a context of 128" in error.message
    least = int(row["change"].removeprefix("target.context = ").removesuffix(" or more"))
    assert run(f"target.context={least}")["parity"] == "passed"
    assert "33 chats give the same tokens" in run.noted["parity"]["measured"]
    assert ", 0 greedy tokens" not in run.noted["parity"]["measured"]


def test_a_template_that_refuses_system_messages_is_compared_without(run: Runs, template: Path) -> None:
    refusing = "{% if messages and messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusing + template.read_text())
    assert run()["parity"] == "passed"
    assert "33 chats give the same tokens" in run.noted["parity"]["measured"]
