"""Chat templates: as transformers renders them, in a sandbox, with one BOS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import inhouse_llamacpp.template
from inhouse.errors import DataError, RecipeError
from inhouse.values import Message, Request
from inhouse_gguf.convert import convert
from inhouse_llamacpp import LlamaCppOptions
from inhouse_llamacpp.engine import LlamaCppEngine
from inhouse_llamacpp.runtime import LlamaCppRuntime
from inhouse_llamacpp.template import ChatTemplate
from support.tiny_llama import make_model

CHATS = [
    [Message("user", "Hi")],
    [
        Message("system", "Be kind."),
        Message("user", "größer? 🙂"),
        Message("assistant", "<|im_end|>"),
        Message("user", ""),
    ],
]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("ask", [True, False])
def test_renders_and_tokenizes_as_transformers(
    engine: LlamaCppEngine, hf: Path, chat: list[Message], ask: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(hf)
    plain = [{"role": each.role, "content": each.content} for each in chat]
    text = engine.render(chat, add_generation_prompt=ask)
    assert text == tokenizer.apply_chat_template(plain, add_generation_prompt=ask, tokenize=False)
    ids = tokenizer.apply_chat_template(plain, add_generation_prompt=ask, return_dict=True)["input_ids"]
    assert engine.tokenize(text) == ids


def _render(source: str, **more: str) -> str:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    return template.render([{"role": "user", "content": "a <b>"}], add_generation_prompt=True)


def test_the_helpers_that_templates_expect() -> None:
    assert _render("{{ bos_token }}{{ eos_token }}") == "<s></s>"
    assert _render("{{ messages | tojson }}") == '[{"role": "user", "content": "a <b>"}]'
    assert (
        _render("{% for m in messages %}\n{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}") == "a <b>"
    )
    assert _render("{% for m in messages %}{% break %}{% endfor %}-") == "-"
    assert len(_render("{{ strftime_now('%Y') }}")) == 4


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% set x = cycler.__init__.__globals__.os.popen('id') %}",
        "{{ messages.append(1) }}",
        "{% for i in range(100000000) %}{% endfor %}",
        "{{ 1 / 0 }}",
    ],
)
def test_hostile_templates_do_nothing(source: str) -> None:
    try:
        assert _render(source) == ""  # the sandbox makes it undefined
    except DataError as error:
        assert "chat template" in str(error)


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inhouse_llamacpp.template, "SECONDS", 0.2)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match="did not end"):
        _render(loop)


def test_broken_and_refusing_templates() -> None:
    with pytest.raises(DataError, match="broken"):
        _render("{% for %}")
    with pytest.raises(RecipeError, match="roles must alternate"):
        _render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("written", ["", "{{ bos_token }}"])
def test_exactly_one_bos(tmp_path: Path, written: str) -> None:
    folder = make_model(tmp_path / "hf")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    (folder / "chat_template.jinja").write_text(written + "{{ messages[0]['content'] }}")
    made = tmp_path / "gguf"
    made.mkdir()
    convert(folder, made / "model.gguf", "F16", lambda *_: None)
    with LlamaCppRuntime(LlamaCppOptions()).open(made, context=64, threads=1) as engine:
        words = len(engine.tokenize("four words of text"))
        chat = engine.generate([Request(messages=(Message("user", "four words of text"),), max_tokens=1)])[0]
        plain = engine.generate([Request(prompt="four words of text", max_tokens=1)])[0]
        assert (chat.prompt_tokens, plain.prompt_tokens) == (words + 1, words + 1)


def test_a_model_without_template(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "hf")
    (folder / "chat_template.jinja").unlink()
    made = tmp_path / "gguf"
    made.mkdir()
    convert(folder, made / "model.gguf", "F16", lambda *_: None)
    with LlamaCppRuntime(LlamaCppOptions()).open(made, context=64, threads=1) as engine:
        with pytest.raises(DataError, match="no chat template"):
            engine.render([Message("user", "x")])
        assert engine.generate([Request(prompt="x", max_tokens=2)])[0].completion_tokens == 2


def test_tools_are_rendered_as_transformers_renders_them(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "hf")
    source = (folder / "chat_template.jinja").read_text()
    written = "tool | tojson, tool | tojson(indent=2), tool | tojson(separators=(',', ':'), sort_keys=true)"
    told = f"{{% for tool in tools or [] %}}{{% for each in [{written}] %}}{{{{ each }}}}\n{{% endfor %}}{{% endfor %}}"
    (folder / "chat_template.jinja").write_text(told + source)
    made = tmp_path / "gguf"
    made.mkdir()
    convert(folder, made / "model.gguf", "F16", lambda *_: None)
    tools = [{"type": "function", "function": {"name": "größe", "description": "<b> & 'x'", "parameters": {}}}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with LlamaCppRuntime(LlamaCppOptions()).open(made, context=64, threads=1) as engine:
        assert "tools" in engine.features
        for given in (tools, []):
            wanted = tokenizer.apply_chat_template(
                [{"role": "user", "content": "Hi"}], tools=given or None, add_generation_prompt=True, tokenize=False
            )
            assert engine.render([Message("user", "Hi")], tools=given) == wanted
        assert "größe" in engine.render([Message("user", "Hi")], tools=tools)
