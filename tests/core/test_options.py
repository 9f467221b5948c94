"""Options: a recipe table becomes an instance of the backend's class, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import field, frozen, validators
from hypothesis import given
from hypothesis import strategies as st

from inhouse import options as opt
from inhouse.errors import RecipeError


@frozen
class Sub:
    pattern: str
    type: Literal["string", "number"] = "string"


@frozen
class Options:
    rank: int = field(default=8, validator=validators.ge(1), metadata={"help": "LoRA rank"})
    rate: float = field(default=1e-4, metadata={"help": "learning rate"})
    merge: bool = field(default=True, metadata={"help": "merge"})
    kind: Literal["q4_0", "q8_0"] = field(default="q4_0", metadata={"help": "type"})
    layers: tuple[str, ...] = field(default=(), metadata={"help": "names"})
    note: str | None = field(default=None, metadata={"help": "a note"})
    data: Path | None = field(default=None, metadata={"help": "a file"})
    threads: int = field(default=0, metadata={"help": "threads", "counts": False})
    parameters: dict[str, Sub] = field(factory=dict, metadata={"help": "by name"})


@frozen
class Needy:
    data: Path = field(metadata={"help": "the file to read"})


def build(table: dict[str, Any], folder: Path = Path("/nowhere"), kind: type[Any] = Options) -> Any:
    return opt.build(kind, table, folder=folder, path="finetune.lora", where=lambda key: f"recipe.toml:9: {key}")


def refused(table: dict[str, Any], folder: Path = Path("/nowhere"), kind: type[Any] = Options) -> str:
    with pytest.raises(RecipeError) as caught:
        build(table, folder, kind)
    return str(caught.value)


def test_values_of_the_right_type(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    made = build(
        {
            "rank": 16,
            "rate": 1,
            "kind": "q8_0",
            "layers": ["q", "v"],
            "note": "x",
            "data": "a.txt",
            "parameters": {"id": {"pattern": "[0-9]"}},
        },
        tmp_path,
    )
    assert (made.rank, made.rate, made.kind, made.layers, made.note) == (16, 1.0, "q8_0", ("q", "v"), "x")
    assert isinstance(made.rate, float)
    assert made.data == tmp_path / "a.txt"
    assert made.parameters == {"id": Sub("[0-9]")}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"rank": "8"}, "finetune.lora.rank: '8' is no int"),
        ({"rank": True}, "finetune.lora.rank: True is no int"),
        ({"rank": 8.0}, "finetune.lora.rank: 8.0 is no int"),
        ({"rank": 0}, "finetune.lora.rank: 'rank' must be >= 1: 0"),
        ({"rate": "fast"}, "finetune.lora.rate: 'fast' is no float"),
        ({"merge": 1}, "finetune.lora.merge: 1 is no bool"),
        ({"kind": "q5"}, "finetune.lora.kind: "),
        ({"layers": "abc"}, "finetune.lora.layers: 'abc' is no list"),
        ({"parameters": "abc"}, "finetune.lora.parameters: 'abc' is no table"),
        ({"layers": [1]}, "finetune.lora.layers: 1 is no str"),
        ({"note": 3}, "finetune.lora.note: "),
        ({"data": 3}, "finetune.lora.data: "),
        ({"data": "missing.txt"}, "finetune.lora.data: no such file: /nowhere/missing.txt"),
        ({"rnak": 8}, "finetune.lora.rnak: unknown key 'rnak'; did you mean 'rank'?"),
        ({"zzzzz": 8}, "unknown key 'zzzzz'; known: data, kind, layers, merge, note, parameters, rank, rate, threads"),
        ({"parameters": {"id": {"pattern": "a", "extra": 1}}}, "finetune.lora.parameters: "),
        ({"parameters": 3}, "finetune.lora.parameters: "),
    ],
)
def test_what_is_wrong_is_told_with_its_place(table: dict[str, Any], said: str) -> None:
    message = refused(table)
    assert message.startswith("recipe.toml:9: ")
    assert said in message


def test_what_has_no_default_is_asked_for() -> None:
    assert refused({}, kind=Needy) == "recipe.toml:9: finetune.lora: needs 'data': the file to read"


@given(st.dictionaries(st.text(max_size=6), st.none() | st.booleans() | st.integers() | st.text(max_size=4)))
def test_any_table_is_taken_or_refused_with_a_recipe_error(table: dict[str, Any]) -> None:
    try:
        build(table)
    except RecipeError as error:
        assert error.where


def test_options_count_by_content_and_by_mark(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    first = opt.counting(build({"data": "a", "threads": 4}, tmp_path))
    assert first == opt.counting(build({"data": "b", "threads": 8}, tmp_path))
    assert "threads" not in first
    (tmp_path / "b").write_text("other")
    assert first != opt.counting(build({"data": "b"}, tmp_path))
    assert first != opt.counting(build({"data": "a", "rank": 9}, tmp_path))


def test_a_folder_counts_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("a")
    before = opt.counting(build({"data": "docs"}, tmp_path))
    assert before == opt.counting(build({"data": "docs"}, tmp_path))
    (tmp_path / "docs" / "a.md").rename(tmp_path / "docs" / "b.md")
    renamed = opt.counting(build({"data": "docs"}, tmp_path))
    assert renamed != before
    (tmp_path / "elsewhere.md").write_text("a")
    (tmp_path / "docs" / "b.md").unlink()
    (tmp_path / "docs" / "b.md").symlink_to(tmp_path / "elsewhere.md")  # as in a hub's cache
    assert opt.counting(build({"data": "docs"}, tmp_path)) == renamed


def test_plain_and_paths(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    made = build({"data": "a", "layers": ["q"]}, tmp_path)
    assert opt.plain(made)["data"] == str(tmp_path / "a")
    assert opt.paths(made) == ["data"]
    assert opt.paths(build({})) == []
