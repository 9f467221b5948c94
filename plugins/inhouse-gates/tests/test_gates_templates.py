"""What parity compares beside the GGUF's own template: Ollama's, tools, and where answers end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from inhouse.values import Completion, Message, Request
from inhouse_gates.golden import TOOLS, golden, golden_with_tools
from inhouse_gates.stops import SHORT, beginnings, end_token, ended, marks, run_on
from inhouse_gates.tokens import differences, through_ollama, tokens, with_tools

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Engine:
    """ChatML, a token a character; says ``answers`` in turn, of (finish, tokens)."""

    context = 2048

    def __init__(
        self, answers: Sequence[tuple[str, int]] = (), features: Sequence[str] = ("tools",), bos: int = 0
    ) -> None:
        self.answers = list(answers)
        self.features = frozenset(features)
        self.bos = bos
        self.asked: list[Request] = []

    def render(self, messages: Sequence[Message], *, tools: Sequence[Any] = ()) -> str:
        told = f"<tools>{TOOLS!r}</tools>" if tools else ""
        turns = "".join(f"<|im_start|>{each.role}\n{each.content}<|im_end|>\n" for each in messages)
        return f"{told}{turns}<|im_start|>assistant\n"

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += requests
        given = [self.answers.pop(0) for _ in requests]
        lengths = [len(self.render(each.messages)) + self.bos for each in requests]
        return [
            Completion("x", f, n, min(t, r.max_tokens), 0.1)
            for (f, t), n, r in zip(given, lengths, requests, strict=True)
        ]  # type: ignore[arg-type]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def made(template: str, *, adds_bos: bool = False) -> Path:
        writer = GGUFWriter(tmp_path / "model.gguf", "llama")
        writer.add_token_list(["<s>", "</s>"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(adds_bos)
        writer.add_chat_template(template)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return tmp_path / "model.gguf"

    return made


def test_every_golden_chat_goes_through_the_modelfiles_template(write: Callable[..., Path]) -> None:
    engine, chats = Engine(), golden()
    truth = [tokens(engine, chat) for chat in chats]  # type: ignore[arg-type]
    found = through_ollama(engine, write(CHATML), chats, truth)  # type: ignore[arg-type]
    assert found.wrong == []
    assert found.told == [f"{len(chats)} of them through the Modelfile's template"]


def test_another_text_from_the_modelfiles_template_is_found(write: Callable[..., Path]) -> None:
    engine, chats = Engine(), golden()
    truth = [tokens(engine, chat) for chat in chats]  # type: ignore[arg-type]
    found = through_ollama(engine, write(CHATML.replace("im_end", "im_END")), chats, truth)  # type: ignore[arg-type]
    assert len(found.wrong) == len(chats)
    assert "the Modelfile's template differs from transformers at token" in found.wrong[0]


def test_one_bos_through_ollama(write: Callable[..., Path]) -> None:
    """Where the GGUF has BOS added, the template for Ollama leaves it out."""
    engine, chat = Engine(), [Message("user", "a")]
    text = "<s>" + engine.render(chat)
    found = through_ollama(engine, write("{{ bos_token }}" + CHATML, adds_bos=True), [chat], [engine.tokenize(text)])  # type: ignore[arg-type]
    assert found.wrong == []
    found = through_ollama(engine, write(CHATML, adds_bos=True), [chat], [engine.tokenize(engine.render(chat))])  # type: ignore[arg-type]
    assert found.wrong == []  # whoever adds it adds one


def test_where_there_is_no_template_for_ollama_the_row_says_so(write: Callable[..., Path]) -> None:
    engine, chats = Engine(), golden()
    path = write("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    found = through_ollama(engine, path, chats, [None] * len(chats))  # type: ignore[arg-type]
    assert found.wrong == []
    assert found.told[0].startswith("the Modelfile has no template, since ")


def test_tools() -> None:
    engine, chats = Engine(), golden_with_tools()
    plain = [tokens(engine, chat) for chat in chats]  # type: ignore[arg-type]
    truth = [tokens(engine, chat, TOOLS) for chat in chats]  # type: ignore[arg-type]
    assert len(chats) >= 3
    assert with_tools(engine, chats, TOOLS, plain, truth).wrong == []  # type: ignore[arg-type]
    wrong = with_tools(engine, chats, TOOLS, plain, [[*ids, 1] if ids else None for ids in truth]).wrong  # type: ignore[arg-type]
    assert len(wrong) == len(chats)
    assert "with tools differs" in wrong[0]
    assert with_tools(engine, chats, TOOLS, plain, plain).told == ["the template takes no tools"]  # type: ignore[arg-type]
    deaf = Engine(features=())
    assert "takes no tools" in with_tools(deaf, chats, TOOLS, plain, truth).told[0]  # type: ignore[arg-type]


def test_differences_say_where() -> None:
    chat = [Message("user", "Hello.")]
    assert differences([chat], [[1, 2]], [[1, 2]], "x") == []
    assert "token 1 of the chat that ends with 'Hello.'" in differences([chat], [[1, 2]], [[1, 3]], "x")[0]
    assert "length" in differences([chat], [[1, 2]], [[1]], "x")[0]
    assert differences([chat], [None], [None], "x") == []


DIALOGUES = [[Message("user", f"{n}?"), Message("assistant", "yes")] for n in range(3)]


def test_the_shortest_answers_that_end_are_kept() -> None:
    engine = Engine([("stop", 9), ("length", SHORT), ("stop", 4), ("stop", 20), ("length", SHORT)])
    found = ended(engine, DIALOGUES, golden()[:2])  # type: ignore[arg-type]
    assert [each.tokens for each in found] == [4, 9]
    assert [each.content for each in engine.asked[0].messages] == ["0?"]  # without the answer it is tested on
    assert found[0].ids == engine.tokenize(engine.render(found[0].chat))


def test_answers_that_do_not_end_are_found() -> None:
    kept = ended(Engine([("stop", 9), ("stop", 4), ("stop", 5), ("length", 9), ("length", 9)]), DIALOGUES, golden()[:2])  # type: ignore[arg-type]
    assert run_on(Engine([("stop", 5), ("stop", 5)]), kept) == []  # type: ignore[arg-type]
    (wrong,) = run_on(Engine([("stop", 5), ("length", 999)]), kept)  # type: ignore[arg-type]
    assert f"ends after 5 tokens does not end within {4 * 5 + SHORT}" in wrong


def test_a_second_bos_in_the_runtimes_prompt_is_found() -> None:
    kept = ended(Engine([("stop", 4), ("length", 9)]), DIALOGUES[:1], golden()[:1])  # type: ignore[arg-type]
    assert beginnings(Engine([("stop", 4)], bos=1), kept, 7) == []  # type: ignore[arg-type]
    (wrong,) = beginnings(Engine([("stop", 4)], bos=1), kept, None)  # type: ignore[arg-type]
    assert "with one BOS" in wrong


TOLD = {
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.tokens": ["a", "<s>", "</s>", "<end>"],
}


def test_marks() -> None:
    assert marks(TOLD, {2}, [[1, 0], [1, 0]]) == []
    assert marks(TOLD, {2}, [[1, 1, 0]]) == ["chats begin with two BOS tokens"]
    assert marks(TOLD, {3}, [[0]]) == ["'<end>' ends a turn and does not end generation in the GGUF: '</s>' does"]
    assert marks({**TOLD, "tokenizer.ggml.eot_token_id": 3}, {3}, [[0]]) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"eos_token": "</s>"}', '"eos_token": "<end>" in tokenizer_config.json of the base'),
        ('{"eos_token": {"content": "</s>"}}', '"eos_token": "<end>" in tokenizer_config.json of the base'),
        ("{}", '"eos_token": "<end>" in tokenizer_config.json of the base'),
        ("[1]", '"eos_token": "<end>" in tokenizer_config.json of the base'),
        ('{"eos_token": "<end>"}', ""),  # the conversion is at fault
    ],
)
def test_what_to_change_where_turns_do_not_end(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config)
    assert end_token(TOLD, {3}, tmp_path).startswith(said)
    assert end_token(TOLD, {3}, tmp_path) or not said
    assert end_token(TOLD, {2}, tmp_path) == ""
