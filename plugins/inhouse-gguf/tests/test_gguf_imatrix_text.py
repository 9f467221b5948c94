"""The text behind an importance matrix: drawn, rendered in a sandbox, cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inhouse_gguf.template
from inhouse.errors import DataError
from inhouse.values import Artifact
from inhouse_gguf.template import ChatTemplate
from inhouse_gguf.texts import Draw, Texts

PLAIN = ChatTemplate("{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}", bos="<s>", eos="</s>")


def drawn(
    tokens: int = 10_000,
    *,
    chats: Path | None = None,
    corpus: Path | None = None,
    template: ChatTemplate | None = PLAIN,
    context: int = 400,
    seed: int = 1,
) -> Texts:
    return Draw(lambda text, chat: list(text.encode()), tokens, context, seed).of(chats, corpus, template)


def words(texts: Texts) -> list[str]:
    return [bytes(each).decode() for each in texts.sequences]


@pytest.fixture
def rows(data: Callable[..., Artifact]) -> Path:
    """20 chats of 8 bytes each, when rendered."""
    made = [
        {"messages": [{"role": "user", "content": f"{n:02}"}, {"role": "assistant", "content": ""}]} for n in range(20)
    ]
    return data("text/chat", made).path / "train.jsonl"


def test_chats_are_drawn_from_the_whole_file(rows: Path) -> None:
    some = words(drawn(50, chats=rows))
    assert some == words(drawn(50, chats=rows))
    assert some != words(drawn(50, chats=rows, seed=2))
    assert sum(map(len, some)) == 50 and len(some[-1]) == 2
    assert max(some) >= "u:10"
    assert sorted(words(drawn(chats=rows))) == [f"u:{n:02};a:;" for n in range(20)]
    assert {len(each) for each in words(drawn(chats=rows, context=5))} == {5}


def test_documents_stand_in_where_no_chat_can(rows: Path, data: Callable[..., Artifact]) -> None:
    corpus = data("text/corpus", [{"text": "abc" * 300}, {"text": ""}, {"text": "x"}]).path / "corpus.jsonl"
    assert drawn(chats=rows, corpus=corpus).kind == "text/chat"
    without = drawn(chats=rows, corpus=corpus, template=None)
    assert without.kind == "text/corpus"
    assert sorted(map(len, without.sequences)) == [1, 100, 400, 400]
    assert drawn(corpus=corpus.with_name("nowhere")).sequences == []
    refusing = ChatTemplate("{{ raise_exception('no') }}", bos="", eos="")
    left = drawn(chats=rows, corpus=corpus, template=refusing)
    assert (left.kind, left.refused) == ("text/corpus", 20)
    assert drawn(chats=rows, template=refusing).sequences == []


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"text": "x"}', "with messages"),
        ('{"messages": ["x"]}', "messages"),
    ],
)
def test_broken_rows_are_told_with_their_place(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=match) as told:
        drawn(chats=path)
    assert told.value.where == f"{path}, row 1"
    path.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match="with text"):
        drawn(corpus=path)


def render(source: str, **message: Any) -> str | None:
    return ChatTemplate(source, bos="<s>", eos="</s>").render([{"role": "user", "content": "a <b>", **message}])


def test_the_helpers_that_templates_expect() -> None:
    assert render("{{ bos_token }}{{ eos_token }}") == "<s></s>"
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "a <b>"}]'
    marked = "{% for m in messages %}\n{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
    assert render(marked) == "a <b>"
    assert render("{% for m in messages %}{% break %}{% endfor %}-") == "-"
    assert len(render("{{ strftime_now('%Y') }}") or "") == 4


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
        assert render(source) == ""  # the sandbox makes it undefined
    except DataError as error:
        assert "chat template" in str(error)


def test_templates_that_never_end_or_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inhouse_gguf.template, "SECONDS", 0.2)
    with pytest.raises(DataError, match=r"did not end within 0\.2 seconds"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(DataError, match="chat template is broken"):
        ChatTemplate("{% for %}", bos="", eos="")
