"""Recipes: layers, origins, order of steps, and an error with file and line for whatever is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inhouse.errors import RecipeError
from inhouse.recipe import Recipe, find_line, parse_size, parse_value
from inhouse.values import Target

SMALL = """\
name = "small"
seed = 7

[target]
memory = "2GiB"

[base]
use = "blank"

[finetune]
use = "tune"
[finetune.tune]
rate = 0.5
"""


def load(tmp_path: Path, text: str = SMALL, *sets: str, **environment: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return Recipe.load(path, set=sets, environment=environment)


def refused(tmp_path: Path, text: str, *sets: str, **environment: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *sets, **environment)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(tmp_path), "")


def test_a_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert (recipe.name, recipe.seed, recipe.folder) == ("small", 7, tmp_path)
    assert recipe.target == Target(memory=2 << 30, context=2048, threads=0)
    assert [(step.name, step.stage, step.section.use) for step in recipe.steps] == [
        ("base", "source", "blank"),
        ("finetune", "trainer", "tune"),
    ]
    assert recipe.steps[1].section.tables == {"tune": {"rate": 0.5}}
    assert not recipe.run.network


def test_a_target_with_a_disk(tmp_path: Path) -> None:
    target = load(tmp_path, SMALL, "target.disk=500 MB").target
    assert (target.memory, target.disk, target.speed) == (2 << 30, 500_000_000, 0)


def test_a_folder_is_its_recipe(tmp_path: Path) -> None:
    load(tmp_path)
    assert Recipe.load(tmp_path, environment={}).path == tmp_path / "recipe.toml"


def test_layers_and_origins(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        SMALL,
        "finetune.tune.rate=0.1",
        INHOUSE_FINETUNE__TUNE__RATE="0.2",
        INHOUSE_FINETUNE__TUNE__UNITS="5",
        INHOUSE_HOME="/elsewhere",
    )
    assert recipe.steps[1].section.tables["tune"] == {"rate": 0.1, "units": 5}
    assert recipe.origins["finetune.tune.rate"] == "--set finetune.tune.rate=0.1"
    assert recipe.origins["finetune.tune.units"] == "environment INHOUSE_FINETUNE__TUNE__UNITS"
    assert recipe.origins["seed"] == f"{tmp_path}/recipe.toml:2"
    assert recipe.origins["finetune.tune"] == f"{tmp_path}/recipe.toml:12"


def test_set_may_name_what_the_file_does_not(tmp_path: Path) -> None:
    recipe = load(tmp_path, SMALL, "quantize.use=shrink", "quantize.shrink.type=q8")
    assert recipe.steps[2].section.use == "shrink"
    assert recipe.steps[2].section.tables == {"shrink": {"type": "q8"}}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('seed = 7', 'sed = 7', "/recipe.toml:2: sed: unknown key 'sed'; did you mean 'seed'?"),
        ('seed = 7', 'seed = "7"', "/recipe.toml:2: seed: '7' is no int"),
        ('seed = 7', 'seed = true', "/recipe.toml:2: seed: True is no int"),
        ('memory = "2GiB"', 'memory = "2 bytes"', "/recipe.toml:5: target.memory: '2 bytes' is no size"),
        ('memory = "2GiB"', 'memory = 0', "/recipe.toml:5: target.memory: 0 is below 1"),
        ('memory = "2GiB"', 'memori = 1', "/recipe.toml:5: target.memori: unknown key 'memori'; did you mean 'memory'?"),
        ('memory = "2GiB"', 'threads = -1', "/recipe.toml:5: target.threads: -1 is below 0"),
        ('memory = "2GiB"', 'disk = "much"', "/recipe.toml:5: target.disk: 'much' is no size"),
        ('memory = "2GiB"', 'disk = -1', "/recipe.toml:5: target.disk: -1 is below 0"),
        ('memory = "2GiB"', 'context = 1.5', "/recipe.toml:5: target.context: 1.5 is no int"),
        ('use = "blank"', 'use = 3', "/recipe.toml:7: base: names no backend"),
        ('[base]', '[bass]', "/recipe.toml:7: bass: unknown key 'bass'; did you mean 'base'?"),
        ('[base]\nuse = "blank"', 'base = "blank"', "/recipe.toml:5: base: should be a table"),
        ('name = "small"', 'name = "../up"', "/recipe.toml:1: name: '../up' cannot name a folder"),
        ('name = "small"', 'name = ""', "/recipe.toml:1: name: '' cannot name a folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    message = refused(tmp_path, SMALL.replace(old, new))
    if old.startswith("[base]\n"):  # moved in front of the tables, or TOML puts it into [target]
        message = refused(tmp_path, 'base = "blank"\n' + SMALL.replace(old, ""))
        said = said.replace(":5:", ":1:")
    assert message.startswith(said)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('name = "a"\nseed = \n', 2),
        ("[base\n", 1),
        ('name = "a"\n[base]\nuse = "x\n', 3),
        ('name = "a"\nname = "b"\n', 2),
        ('[base]\nuse = """never closed\n\n', 3),
    ],
)
def test_broken_toml_has_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    assert re.match(rf"/recipe\.toml:{line}: is no TOML: ", refused(tmp_path, text))


def test_toml_made_to_break_the_parser(tmp_path: Path) -> None:
    assert "recipe.toml" in refused(tmp_path, "seed = " + "[" * 100_000)
    assert "recipe.toml" in refused(tmp_path, "seed = " + "1" * 100_000)


def test_no_file_no_steps_no_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml: no such recipe\n  try: inhouse init"):
        Recipe.load(tmp_path / "nowhere.toml")
    assert "has no steps" in refused(tmp_path, 'name = "a"\n')
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "binary.toml")


@pytest.mark.parametrize("given", ["nothing", "=1", " = 2"])
def test_set_needs_a_key_and_a_value(tmp_path: Path, given: str) -> None:
    assert "needs key=value" in refused(tmp_path, SMALL, given)


def test_set_through_a_value_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, SMALL, "seed.deep=1") == "--set seed.deep=1: 'seed' is a value, not a table"


def test_an_unknown_key_of_a_layer_names_the_layer(tmp_path: Path) -> None:
    assert refused(tmp_path, SMALL, "sede=1").startswith("--set sede=1: sede: unknown key 'sede'")
    assert refused(tmp_path, SMALL, INHOUSE_TARGET__MEM="1").startswith("environment INHOUSE_TARGET__MEM: target.mem:")


toml_values = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)


@given(toml_values)
def test_set_values_are_toml(value: Any) -> None:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    assert parse_value(text) == value


@given(st.text())
@example("q4_k_m")
@example("[" * 50_000)
@example("9" * 5_000)
@example('"\n[evil]\nx = "')
def test_set_takes_any_text(text: str) -> None:
    value = parse_value(text)
    assert isinstance(value, str | int | float | bool | list | dict) or value.isoformat()


@given(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True).filter(lambda t: t not in ("true", "false", "nan", "inf"))
)
def test_words_need_no_quotes(word: str) -> None:
    assert parse_value(word) == word


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(0, 99), min_size=1, max_size=4))
def test_set_reaches_the_backend_table(tmp_path_factory: pytest.TempPathFactory, table: dict[str, int]) -> None:
    sets = [f"finetune.lora.{key}={value}" for key, value in table.items()]
    recipe = load(tmp_path_factory.mktemp("set"), SMALL, *sets)
    assert recipe.steps[1].section.tables["lora"] == table


@pytest.mark.parametrize(
    ("text", "size"),
    [(5, 5), ("4GiB", 4 << 30), ("500 MB", 500_000_000), ("1.5kib", 1536), ("12", 12), (" 2 b ", 2)],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text, "here") == size


@pytest.mark.parametrize("text", ["", "GiB", "1.2.3GB", ".", "4 lots", "-1GB", True, 1.5e400])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(RecipeError, match="is no size"):
        parse_size(text, "here")


def names(recipe: Recipe) -> list[str]:
    return [step.name for step in recipe.steps]


EXTRA = SMALL + '\n[quantize]\nuse = "shrink"\n'


def test_what_quantises_is_judged_unless_the_recipe_says_not(tmp_path: Path) -> None:
    gates = load(tmp_path, EXTRA).steps[-1]
    assert (gates.name, gates.section.use, gates.implied) == ("gates", "gates", True)
    assert names(load(tmp_path, EXTRA, "gates=false")) == ["base", "finetune", "quantize"]
    assert names(load(tmp_path, EXTRA, "quantize=false")) == names(load(tmp_path)) == ["base", "finetune"]
    asked = load(tmp_path, EXTRA, "gates.gates.survival=0.3").steps[-1]
    assert (asked.section.use, asked.section.tables, asked.implied) == ("gates", {"gates": {"survival": 0.3}}, False)
    assert load(tmp_path, EXTRA, "gates.use=mine").steps[-1].section.use == "mine"


def test_a_usual_step_can_be_left_out_by_a_word(tmp_path: Path) -> None:
    assert names(load(tmp_path, SMALL, "finetune=false")) == ["base"]
    assert "--set finetune=true: finetune: should be a table" in refused(tmp_path, SMALL, "finetune=true")


@pytest.mark.parametrize(
    ("table", "order"),
    [
        ('stage = "trainer"', ["base", "finetune", "extra", "quantize", "gates"]),
        ('stage = "evaluator"', ["base", "finetune", "quantize", "gates", "extra"]),
        ('stage = "quantizer"\nbefore = "quantize"', ["base", "finetune", "extra", "quantize", "gates"]),
        ('stage = "evaluator"\nafter = "base"', ["base", "extra", "finetune", "quantize", "gates"]),
    ],
)
def test_extra_steps_are_placed(tmp_path: Path, table: str, order: list[str]) -> None:
    assert names(load(tmp_path, f'{EXTRA}\n[steps.extra]\n{table}\nuse = "x"\n')) == order


def test_extra_steps_may_follow_each_other(tmp_path: Path) -> None:
    text = f'{EXTRA}\n[steps.a]\nstage = "trainer"\nuse = "x"\n[steps.b]\nstage = "trainer"\nafter = "a"\nuse = "x"\n'
    assert names(load(tmp_path, text)) == ["base", "finetune", "a", "b", "quantize", "gates"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[steps.extra]\nstage = "triner"\nuse = "x"', "unknown stage 'triner'; did you mean 'trainer'?"),
        ('[steps.extra]\nuse = "x"', "unknown stage 'None'"),
        ('[steps.extra]\nstage = "trainer"\nafter = "finetun"\nuse = "x"', "unknown step 'finetun'; did you mean"),
        ('[steps.extra]\nstage = "trainer"\nafter = 3\nuse = "x"', "unknown step '3'"),
        ('[steps.base]\nstage = "source"\nuse = "x"', "is a usual step; write [base]"),
        ('[steps."../x"]\nstage = "source"\nuse = "x"', "'../x' is no name for a step"),
        ('[steps.extra]\nstage = "trainer"', "names no backend"),
    ],
)
def test_extra_steps_that_are_wrong(tmp_path: Path, table: str, said: str) -> None:
    message = refused(tmp_path, f"{EXTRA}\n{table}\n")
    assert said in message
    assert re.match(r"/recipe\.toml:(18|19|20):" if ".." not in table else r"/recipe\.toml:\d+:", message), message


def test_tools_are_tables_of_their_own(tmp_path: Path) -> None:
    text = (
        SMALL
        + '[agent]\nuse = "react"\ntools = ["orders"]\n[tools.orders]\nuse = "sqlite"\nquery = "x"\n[tools.calc]\n'
    )
    recipe = load(tmp_path, text)
    assert recipe.tools["orders"].use == "sqlite"
    assert recipe.tools["orders"].tables == {"sqlite": {"query": "x"}}
    assert recipe.tools["calc"].use == "calc"
    assert recipe.agent is not None
    assert recipe.agent.words == {"tools": ["orders"]}


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("seed", 2),
        ("target", 4),
        ("target.memory", 5),
        ("target.missing", 4),
        ("finetune.tune.rate", 13),
        ("finetune.tune.missing", 12),
        ("missing", 1),
    ],
)
def test_lines_are_found(key: str, line: int) -> None:
    assert find_line(SMALL, key) == line


def test_lines_of_dotted_and_quoted_keys() -> None:
    text = 'a.b = 1\n["c"."d"]\n"e" = 2\nf . g = 3\n'
    assert [find_line(text, key) for key in ("a.b", "c.d", "c.d.e")] == [1, 2, 3]
