"""Discovery: a broken plugin is reported with its reason, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import frozen

from inhouse import QuantizerSpec, RuntimeSpec, hookimpl
from inhouse.bus import Bus
from inhouse.errors import PluginError, RecipeError
from inhouse.events import Event, StepFinished
from inhouse.plugins import Registry
from support.distributions import points, registry

Module = Callable[..., str]


def spec(name: str = "acme", **more: Any) -> QuantizerSpec:
    return QuantizerSpec(
        **{"name": name, "summary": "ACME", "factory": "support.fakes:Shrink", "produces": "model/acme", **more}
    )


def quantizers(*specs: Any) -> dict[str, Any]:
    @hookimpl
    def inhouse_quantizers() -> Iterator[Any]:
        yield from specs

    return {"inhouse_quantizers": inhouse_quantizers}


def reasons(made: Registry) -> dict[str, str]:
    return {each.distribution: each.reason for each in made.failures}


def names(made: Registry, kind: str) -> list[str]:
    return [each.spec.name for each in made.all(kind)]


def test_backends_are_found_with_their_distribution(module: Module) -> None:
    made = registry({"acme-quant": module("acme", **quantizers(spec()))})
    assert made.failures == []
    found = made.get("quantizer", "acme")
    assert (found.distribution, found.version, found.label) == ("acme-quant", "1.0", "acme-quant 1.0 (acme)")
    assert found.load().__name__ == "Shrink"


def test_a_plugin_that_does_not_import_changes_nothing_else() -> None:
    made = registry({"broken": "no_such_module_anywhere"})
    assert reasons(made) == {"broken": "ModuleNotFoundError: No module named 'no_such_module_anywhere'"}
    assert names(made, "quantizer") == ["shrink"]


@pytest.mark.parametrize(
    "text", ["raise ImportError('libacme.so.3: not found')", "import sys; sys.exit(4)", "1 / 0", "def"]
)
def test_whatever_the_import_raises_is_reported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "raises_on_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    made = registry({"broken": "raises_on_import"})
    assert list(reasons(made)) == ["broken"]
    assert made.get("quantizer", "shrink")


def test_a_hook_that_raises_is_reported(module: Module) -> None:
    @hookimpl
    def inhouse_quantizers() -> Iterator[QuantizerSpec]:
        yield spec("half")
        raise OSError("no driver")

    made = registry({"broken": module("acme", inhouse_quantizers=inhouse_quantizers)})
    assert reasons(made) == {"broken": "inhouse_quantizers: OSError: no driver"}
    assert names(made, "quantizer") == ["shrink"]


def test_an_unknown_hook_is_reported(module: Module) -> None:
    @hookimpl
    def inhouse_teleporters() -> list[Any]:
        return []

    made = registry({"newer": module("acme", inhouse_teleporters=inhouse_teleporters, **quantizers(spec()))})
    assert reasons(made) == {
        "newer": "implements unknown hooks inhouse_teleporters; it needs another version of inhouse"
    }
    assert names(made, "quantizer") == ["shrink"]


def test_an_unknown_argument_of_a_hook_is_reported(module: Module) -> None:
    @hookimpl
    def inhouse_subscribers(bus: Bus, colour: str) -> None: ...

    made = registry({"newer": module("acme", inhouse_subscribers=inhouse_subscribers, **quantizers(spec()))})
    assert "colour" in reasons(made)["newer"]
    assert names(made, "quantizer") == ["shrink"]
    made.call("inhouse_subscribers", bus=Bus(), terminal=False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (RuntimeSpec(name="x", summary="", factory="a:B"), "yields RuntimeSpec, not QuantizerSpec"),
        ("acme", "yields str, not QuantizerSpec"),
        (spec(api=99), "'acme' is for plugin interface 99, this is 1"),
        (spec(options=dict), "options is no attrs class"),
        (spec(produces=()), "produces nothing"),
    ],
)
def test_a_wrong_spec_is_reported_and_the_next_one_kept(module: Module, given: Any, reason: str) -> None:
    made = registry({"odd": module("acme", **quantizers(given, spec("good")))})
    assert reason in reasons(made)["odd"]
    assert names(made, "quantizer") == ["good", "shrink"]


def test_one_name_in_two_distributions_is_for_the_recipe_to_resolve(module: Module) -> None:
    made = registry({"one": module("first", **quantizers(spec())), "two": module("second", **quantizers(spec()))})
    with pytest.raises(RecipeError, match=r'comes from several plugins\n  try: use = one of "one:acme", "two:acme"'):
        made.get("quantizer", "acme", where="recipe.toml:3")
    assert made.get("quantizer", "two:acme").distribution == "two"
    assert made.failures == []


def test_one_name_twice_in_a_distribution_is_reported(module: Module) -> None:
    made = registry({"one": module("first", **quantizers(spec(), spec()))})
    assert reasons(made) == {"one": "declares quantizer 'acme' twice"}
    assert made.get("quantizer", "acme")


@pytest.mark.parametrize(
    ("kind", "use", "said"),
    [
        ("quantizer", "gguf", r"no quantizer named 'gguf' is installed \(installed: shrink\)\n  try: pip install inhouse-gguf"),
        ("quantizer", "shrnik", r"installed: shrink\)\n  try: use = \"shrink\""),
        ("quantizer", "warp", r"pip install the plugin that provides 'warp'"),
        ("quantizer", "fakes:shrunk", r"no quantizer named 'fakes:shrunk' .*\n  try: use = \"shrink\""),
        ("executor", "ssh", r"installed: inline, local"),
    ],
)  # fmt: skip
def test_an_unknown_backend_says_what_is_there_and_what_to_install(kind: str, use: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        registry().get(kind, use, where="recipe.toml:3: quantize.use")
    assert str(caught.value).startswith("recipe.toml:3: quantize.use: ")


@pytest.mark.parametrize(("distribution", "use"), [("inhouse-gguf", "gguf"), ("acme", "acme"), ("x", "x:acme")])
def test_a_backend_of_a_broken_plugin_says_why_it_is_missing(distribution: str, use: str) -> None:
    made = registry({distribution: "no_such_module_anywhere"})
    with pytest.raises(RecipeError, match="is installed but failed: ModuleNotFoundError") as caught:
        made.get("quantizer", use)
    assert "inhouse plugins" in (caught.value.hint or "")


def test_a_factory_that_does_not_import_names_the_plugin(module: Module) -> None:
    wrong = [spec("a", factory="support.fakes:Nowhere"), spec("b", factory="support.nowhere:X")]
    made = registry({"acme": module("acme", **quantizers(*wrong))})
    for name in ("a", "b"):
        with pytest.raises(PluginError, match=rf"does not import: .*\[acme 1.0 \({name}\)\]") as caught:
            made.get("quantizer", name).load()
        assert caught.value.exit_code == 3


def test_subscribers_are_called_and_one_that_raises_is_reported(module: Module) -> None:
    heard: list[Event] = []

    @hookimpl
    def inhouse_subscribers(bus: Bus) -> Any:
        return bus.subscribe(StepFinished, heard.append)

    @hookimpl(specname="inhouse_subscribers")
    def inhouse_subscribers_broken(bus: Bus, terminal: bool) -> None:
        raise ValueError("no terminal")

    made = registry(
        {
            "good": module("good", inhouse_subscribers=inhouse_subscribers),
            "bad": module("bad", inhouse_subscribers=inhouse_subscribers_broken),
        }
    )
    bus = Bus(strict=True)
    made.call("inhouse_subscribers", bus=bus, terminal=False)
    bus.publish(StepFinished("s", "trainer", "lora", 1.0, False))
    assert len(heard) == 1
    assert reasons(made) == {"bad": "inhouse_subscribers: ValueError: no terminal"}


def test_event_types_are_collected_and_wrong_ones_reported(module: Module) -> None:
    @frozen
    class Good(Event):
        rows: int

    @frozen
    class Clashing(Event):
        type: str

    @hookimpl
    def inhouse_event_types() -> list[Any]:
        return [Good, Clashing, 3, str]

    made = registry({"acme": module("acme", inhouse_event_types=inhouse_event_types)})
    types = made.event_types()
    assert Good in types
    assert StepFinished in types
    assert Clashing not in types
    assert [each.reason for each in made.failures] == [
        "event Clashing has a field 'type', which journals use for the class",
        "inhouse_event_types yields 3, no Event class",
        "inhouse_event_types yields <class 'str'>, no Event class",
    ]


def test_wrappers_nest_and_run_whatever_the_block_does(module: Module) -> None:
    said: list[str] = []

    def wrapper(name: str) -> Any:
        @hookimpl
        def inhouse_step(step: Any) -> Iterator[None]:
            said.append(f"{name} before")
            yield
            said.append(f"{name} after")

        return inhouse_step

    made = Registry(points({n: module(n, inhouse_step=wrapper(n)) for n in ("a", "b")}))
    with pytest.raises(ValueError, match="work"), made.wrapped("inhouse_step", step=None):
        said.append("work")
        raise ValueError("work")
    outer, inner = said[0][0], said[1][0]
    assert said == [f"{outer} before", f"{inner} before", "work", f"{inner} after", f"{outer} after"]
    assert made.failures == []


def _raises(step: Any) -> Iterator[None]:
    raise OSError("before")
    yield


def _ends(step: Any) -> Iterator[None]:
    return
    yield


def _twice(step: Any) -> Iterator[None]:
    yield
    yield


def _raises_after(step: Any) -> Iterator[None]:
    yield
    raise OSError("after")


def _no_generator(step: Any) -> None:
    raise OSError("at once")


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (_raises, "OSError: before"),
        (_ends, "ended before its yield"),
        (_twice, "yields more than once"),
        (_raises_after, "OSError: after"),
        (_no_generator, "OSError: at once"),
        (lambda step: None, "TypeError"),
    ],
)
def test_a_wrapper_that_fails_is_reported_and_the_work_is_done(module: Module, wrapper: Any, reason: str) -> None:
    made = Registry(points({"acme": module("acme", inhouse_step=hookimpl(wrapper))}))
    done = False
    with made.wrapped("inhouse_step", step=None):
        done = True
    assert done
    assert reason in reasons(made)["acme"]


def test_hooks_that_need_few_arguments_name_few(module: Module) -> None:
    called: list[Bus] = []

    @hookimpl
    def inhouse_subscribers(bus: Bus) -> None:
        called.append(bus)

    made = registry({"acme": module("acme", inhouse_subscribers=inhouse_subscribers)})
    bus = Bus()
    made.call("inhouse_subscribers", bus=bus, terminal=True)
    assert called == [bus]
