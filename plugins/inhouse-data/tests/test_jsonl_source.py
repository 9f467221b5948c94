"""The source on files made on the spot: formats, checks with file and line, split, deterministic bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse.errors import DataError, RecipeError
from inhouse_data import Options, inhouse_sources
from inhouse_data.check import wrong_order
from inhouse_data.formats import detect, to_messages
from inhouse_data.source import JsonlSource


class FakeStep:
    """What the source uses of a step: two folders, a seed, and a record of what it was told."""

    name = "data"

    def __init__(self, folder: Path, seed: int = 7) -> None:
        self.seed = seed
        self.outputs = {"text/chat": folder / "chat", "text/corpus": folder / "corpus"}
        for path in self.outputs.values():
            path.mkdir(parents=True)
        self.notices: list[str] = []
        self.facts: dict[str, Any] = {}

    def track(self, items: Iterable[Any], **_: Any) -> Iterator[Any]:
        yield from items

    def notice(self, message: str, **_: Any) -> None:
        self.notices.append(message)

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.outputs["text/chat"] / name).read_text("utf-8").splitlines()]

    def kinds(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for each in json.loads((self.outputs["text/chat"] / "findings.json").read_text("utf-8"))["findings"]:
            found.setdefault(each["kind"], []).append(each["place"])
        return found


def chat(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def write(path: Path, rows: Iterable[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def run(tmp_path: Path, name: str = "out", seed: int = 7, **options: Any) -> FakeStep:
    step = FakeStep(tmp_path / name, seed)
    JsonlSource(Options(**options)).produce(step)  # type: ignore[arg-type]
    return step


def test_spec() -> None:
    (spec,) = inhouse_sources()
    assert spec.produces == ("text/chat", "text/corpus")


def test_three_formats_become_messages(tmp_path: Path) -> None:
    path = write(
        tmp_path / "chat.jsonl",
        [
            chat("a", "b", id="own", kind="x"),
            {"instruction": "c", "input": "d", "output": "e"},
            {"conversations": [{"from": "human", "value": "f"}, {"from": "gpt", "value": "g"}]},
        ],
    )
    rows = run(tmp_path, chat=path, heldout_share=0.0).rows("train.jsonl")
    assert [row["id"] for row in rows] == ["own", "chat-2", "chat-3"]
    assert rows[0]["kind"] == "x"
    assert [[m["content"] for m in row["messages"]] for row in rows] == [["a", "b"], ["c\n\nd", "e"], ["f", "g"]]
    assert [m["role"] for m in rows[2]["messages"]] == ["user", "assistant"]


def test_every_check_names_its_line(tmp_path: Path) -> None:
    tool = {"role": "tool", "content": "t"}
    path = write(
        tmp_path / "train.jsonl",
        [
            chat("one"),
            chat("one"),
            chat("One!"),
            chat("two", "  "),
            {"messages": [{"role": "user", "content": "three"}]},
            {"messages": [*chat("four")["messages"], {"role": "assistant", "content": "again"}]},
            chat("five " * 200),
            chat("six", "bell \x07"),
            chat("seven", "end<|im_end|>"),
            {"messages": [*chat("eight")["messages"], tool, {"role": "assistant", "content": "ok"}]},
            '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "x"}]}',
            {"messages": [*chat("nine")["messages"], {"role": "user", "content": "and"}]},
            chat("Held out?"),
            chat("ten", "other"),
        ],
    )
    heldout = write(tmp_path / "held.jsonl", [chat("held  out", "the answer differs"), chat("eleven")])
    step = run(tmp_path, chat=path, heldout=heldout, max_tokens=100)
    assert step.kinds() == {
        "duplicate": ["train.jsonl:2"],
        "near-duplicate": ["train.jsonl:3"],
        "empty-answer": ["train.jsonl:4"],
        "no-label": ["train.jsonl:5"],
        "role-order": ["train.jsonl:6"],
        "too-long": ["train.jsonl:7"],
        "control-character": ["train.jsonl:8"],
        "special-token": ["train.jsonl:9"],
        "unicode": ["train.jsonl:11"],
        "no-last-answer": ["train.jsonl:12"],
        "leakage": ["train.jsonl:13"],
    }
    assert [row["id"] for row in step.rows("train.jsonl")] == [f"train-{n}" for n in (1, 3, 8, 9, 10, 12, 14)]
    assert len(step.notices) == 11
    assert any(line.startswith(f"duplicate: {path}:2: is the same chat as train.jsonl:1") for line in step.notices)
    assert step.facts["train_rows"] == 7
    assert step.facts["missing"] == ["corpus"]
    assert (step.outputs["text/corpus"] / "corpus.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "is no JSON"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[1]", "holds list"),
        ('{"prompt": "x"}', "no known format: it has prompt"),
        ('{"messages": []}', "no list with at least one turn"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', "messages[0].role is 'boss'"),
        ('{"messages": [{"role": "user", "content": null}]}', "messages[0].content is no text"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_unreadable_row_stops_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "train.jsonl", [chat("one"), "", line, chat("two")])
    with pytest.raises(DataError) as error:
        run(tmp_path, chat=path)
    assert error.value.where == f"{path}:3"
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_many_errors_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ["{"] * 12)
    with pytest.raises(DataError, match=r"(?s)train.jsonl:1: .*train.jsonl:5: .*and 7 more"):
        run(tmp_path, chat=path)


def test_strict_makes_a_warning_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [chat("one"), chat("one")])
    with pytest.raises(DataError, match=r"train.jsonl:2: is the same chat"):
        run(tmp_path, chat=path, strict=True)


def test_bytes(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(chat("one")).encode() + b"\r\n" + json.dumps(chat("zwei")).encode())
    step = run(tmp_path, chat=path)
    assert step.kinds() == {"bom": ["train.jsonl:1"], "line-ends": ["train.jsonl:1"]}
    path.write_bytes(json.dumps(chat("one")).encode() + b"\n" + b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match=r"train.jsonl:2: is no UTF-8 \(byte 0xff at column 15\)"):
        run(tmp_path, name="again", chat=path)


def test_nothing_given_and_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither chat nor corpus"):
        run(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        run(tmp_path, name="b", chat=tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"(?s)no chat is left.*empty-answer"):
        run(tmp_path, name="c", chat=write(tmp_path / "t.jsonl", [chat("a", "")]))
    with pytest.raises(DataError, match=r"this is \.txt"):
        run(tmp_path, name="d", chat=write(tmp_path / "t.txt", [chat("a")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.jsonl in this folder"):
        run(tmp_path, name="e", chat=tmp_path / "empty")


def test_system_message_and_limit(tmp_path: Path) -> None:
    system = tmp_path / "system.txt"
    system.write_text("You help.\n")
    own = {"messages": [{"role": "system", "content": "Mine."}, *chat("b")["messages"]]}
    path = write(tmp_path / "train.jsonl", [chat("a"), own, chat("c"), chat("d")])
    rows = run(tmp_path, chat=path, system=system, limit=3, heldout_share=0.0).rows("train.jsonl")
    assert [row["messages"][0]["content"] for row in rows] == ["You help.", "Mine.", "You help."]


def test_split_keeps_equal_questions_together(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [chat(f"question {n % 40}", f"answer {n}") for n in range(120)])
    step = run(tmp_path, chat=path, heldout_share=0.2)
    asked = [{row["messages"][0]["content"] for row in step.rows(name)} for name in ("train.jsonl", "heldout.jsonl")]
    assert not asked[0] & asked[1]
    assert 24 <= step.facts["heldout_rows"] <= 26
    assert run(tmp_path, name="other", seed=8, chat=path, heldout_share=0.2).rows("heldout.jsonl") != step.rows(
        "heldout.jsonl"
    )


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [chat(f"é {n}") for n in range(30)] + [chat("é 3")])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("# A\n\ntext")
    first, second = (run(tmp_path, name=name, chat=path, corpus=tmp_path / "texts") for name in ("x", "y"))
    for kind, folder in first.outputs.items():
        for file in folder.iterdir():
            assert file.read_bytes() == (second.outputs[kind] / file.name).read_bytes()


def test_corpus(tmp_path: Path) -> None:
    root = tmp_path / "texts"
    (root / "sub").mkdir(parents=True)
    (root / "returns.md").write_bytes(b"\xef\xbb\xbf# Returns #\r\n\r\nWithin 30 days.\r\n")
    (root / "notes.txt").write_text("Opening hours\n\nNine to five.")
    (root / "plain.txt").write_text("one line")
    (root / "sub" / "plain.txt").write_text("another line")
    (root / "plain.md").write_text("no heading")
    (root / "copy.txt").write_text("one  line\n")
    (root / "empty.md").write_text("\n")
    (root / ".hidden.md").write_text("x")
    (root / "image.png").write_bytes(b"\xff")
    step = run(tmp_path, corpus=root)
    rows = [json.loads(line) for line in (step.outputs["text/corpus"] / "corpus.jsonl").read_text().splitlines()]
    assert [(row["id"], row["title"], row["path"]) for row in rows] == [
        ("copy", "copy", "copy.txt"),
        ("notes", "Opening hours", "notes.txt"),
        ("plain.md", "plain", "plain.md"),
        ("returns", "Returns", "returns.md"),
        ("sub/plain", "plain", "sub/plain.txt"),
    ]
    assert rows[3]["text"] == "# Returns #\n\nWithin 30 days."
    assert step.kinds() == {
        "bom": ["returns.md"],
        "line-ends": ["returns.md:1"],
        "empty-text": ["empty.md"],
        "duplicate": ["plain.txt"],
    }
    assert step.rows("train.jsonl") == []
    (root / "bad.txt").write_bytes(b"fine\nnot \xfe")
    with pytest.raises(DataError, match=r"bad.txt:2: is no UTF-8 \(byte 0xfe\)"):
        run(tmp_path, name="again", corpus=root)


def test_rows_of_a_jsonl_file_are_documents(tmp_path: Path) -> None:
    root = tmp_path / "texts"
    root.mkdir()
    rows: list[Any] = [
        {"text": "first text", "id": "one", "title": "One"},
        {"text": "second text", "id": 2},
        {"text": " first  text "},
        {"text": "third text"},
        {"messages": []},
        {"text": ""},
    ]
    write(root / "dump.jsonl", rows)
    (root / "a.md").write_text("# A\n\nfourth text")
    step = run(tmp_path, corpus=root)
    found = [json.loads(line) for line in (step.outputs["text/corpus"] / "corpus.jsonl").read_text().splitlines()]
    assert [(row["id"], row["title"], row["text"], row["path"]) for row in found] == [
        ("a", "A", "# A\n\nfourth text", "a.md"),
        ("one", "One", "first text", "dump.jsonl:1"),
        ("2", "dump 2", "second text", "dump.jsonl:2"),
        ("dump-4", "dump 4", "third text", "dump.jsonl:4"),
    ]
    assert step.kinds() == {
        "duplicate": ["dump.jsonl:3"], "no-text": ["dump.jsonl:5"], "empty-text": ["dump.jsonl:6"],
    }  # fmt: skip
    assert step.facts["documents"] == 4
    (root / "dump.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match=r"dump.jsonl:1: is no JSON"):
        run(tmp_path, name="again", corpus=root)


def test_metadata_of_a_row_comes_along(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"text": "first", "metadata": {"tenant": "north", "year": [2024, 2025], "draft": True}},
        {"text": "second"},
        {"text": "third", "metadata": {}},
        *({"text": f"text {at}", "metadata": wrong} for at, wrong in enumerate(([], {"a": None}, {"a": [{}]}))),
    ]
    step = run(tmp_path, corpus=write(tmp_path / "dump.jsonl", rows))
    found = [json.loads(line) for line in (step.outputs["text/corpus"] / "corpus.jsonl").read_text().splitlines()]
    assert [row.get("metadata") for row in found] == [rows[0]["metadata"], None, None]
    assert step.kinds() == {"metadata": ["dump.jsonl:4", "dump.jsonl:5", "dump.jsonl:6"]}


def test_describe(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [chat("one")])
    options = Options(chat=path, corpus=tmp_path)
    assert JsonlSource(options).describe() == {"bytes": 2 * path.stat().st_size}


def test_role_order() -> None:
    s, u, a, t = "system", "user", "assistant", "tool"
    for good in ([u, a], [s, u, a, u, a], [u, a, t, t, a, u], [u]):
        assert wrong_order(good) is None
    for bad in ([a], [s, a], [u, u], [u, s], [u, a, s], [u, t], [t], [u, a, t, u]):
        assert wrong_order(bad) is not None


texts = st.text(max_size=20)
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), texts), min_size=1, max_size=5)


@given(turns)
def test_messages_and_sharegpt_round_trip(said: list[tuple[str, str]]) -> None:
    back = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    expected = [{"role": role, "content": content} for role, content in said]
    for row in (
        {"messages": expected, "other": 1},
        {"conversations": [{"from": back[role], "value": content} for role, content in said], "other": 1},
    ):
        assert to_messages(row, detect(row)) == (expected, {"other": 1})


@given(texts, texts, texts)
def test_alpaca(instruction: str, extra: str, output: str) -> None:
    row = {"instruction": instruction, "input": extra, "output": output}
    (user, assistant), rest = to_messages(row, detect(row))
    assert user["content"].startswith(instruction)
    assert user["content"].endswith(extra if extra.strip() else instruction)
    assert (assistant, rest) == ({"role": "assistant", "content": output}, {})
