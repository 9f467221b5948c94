"""The plan: steps joined by kind, and everything that does not fit said before any work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import field, frozen

from inhouse import (
    EvaluatorSpec,
    Input,
    Kernel,
    QuantizerSpec,
    Recipe,
    RoundingSpec,
    RuntimeSpec,
    TrainerSpec,
    hookimpl,
)
from inhouse.artifacts import Store, tree_bytes
from inhouse.errors import InhouseError, PluginError, RecipeError, ResourceError
from inhouse.plan import Plan, disk_needed
from inhouse.plugins import Backend, Registry
from inhouse.values import Artifact
from support.distributions import TESTS, environment, registry
from support.fakes import RECIPE, Pile, write_recipe

Module = Callable[..., str]


def load(recipe: Path, *sets: str) -> Recipe:
    return Recipe.load(recipe, set=sets, environment={})


def taken(plan: Plan) -> dict[str, list[Any]]:
    return {step.name: list(step.inputs) for step in plan.steps}


def refused(kernel: Kernel, recipe: Recipe, error: type[InhouseError] = RecipeError) -> str:
    with pytest.raises(error) as caught:
        kernel.plan(recipe)
    return str(caught.value).replace(str(recipe.folder), "")


def test_steps_take_the_latest_of_a_kind(kernel: Kernel, recipe: Path) -> None:
    plan = kernel.plan(load(recipe))
    assert taken(plan) == {
        "base": [],
        "data": [],
        "finetune": [(("base", "model/hf"),), (("data", "text/chat"),)],
        "quantize": [(("finetune", "model/hf"),)],
        "knowledge": [(("data", "text/corpus"),)],
        "evaluate": [
            (("base", "model/hf"), ("finetune", "model/hf"), ("quantize", "model/fake")),
            (("knowledge", "knowledge"),),
        ],
        "bundle": [(("quantize", "model/fake"),), (("knowledge", "knowledge"),)],
    }
    assert {kind: each.backend.spec.name for kind, each in plan.answering.runtimes.items()} == {
        "model/hf": "echo",
        "model/fake": "echo",
    }


@pytest.mark.parametrize(("take", "step"), [("first", "base"), ("latest", "finetune"), ("all", None)])
def test_first_latest_all(tmp_path: Path, recipe: Path, module: Module, take: Any, step: str | None) -> None:
    @hookimpl
    def inhouse_evaluators() -> Iterator[EvaluatorSpec]:
        wanted = Input("model/hf", take=take)
        yield EvaluatorSpec(name="x", summary="", factory="support.fakes:Count", consumes=wanted, produces="report")

    kernel = Kernel(tmp_path, registry=registry({"x": module("x", inhouse_evaluators=inhouse_evaluators)}))
    made = taken(kernel.plan(load(recipe, "evaluate.use=x")))["evaluate"]
    both = (("base", "model/hf"), ("finetune", "model/hf"))
    assert made == [both if step is None else ((step, "model/hf"),)]


def test_what_is_not_made_is_told(kernel: Kernel, tmp_path: Path) -> None:
    text = 'seed = 1\n[base]\nuse = "blank"\n[finetune]\nuse = "tune"\n'
    message = refused(kernel, load(write_recipe(tmp_path, text)))
    assert message.startswith(
        "/recipe.toml:4: finetune: step 'finetune' needs text/chat; the steps before it make model/hf"
    )


def test_an_optional_input_may_be_missing(kernel: Kernel, recipe: Path) -> None:
    text = RECIPE.replace('[knowledge]\nuse = "shelf"\n', "")
    assert taken(kernel.plan(load(write_recipe(recipe.parent, text))))["bundle"][1] is None


def test_a_swap_is_one_word(tmp_path: Path, recipe: Path, module: Module) -> None:
    @hookimpl
    def inhouse_quantizers() -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(
            name="acme", summary="", factory="support.fakes:Shrink", consumes="model/hf", produces="model/acme"
        )

    kernel = Kernel(tmp_path, registry=registry({"acme": module("acme", inhouse_quantizers=inhouse_quantizers)}))
    plan = kernel.plan(load(recipe, "quantize.use=acme"))
    assert taken(plan)["bundle"][0] == (("quantize", "model/acme"),)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["quantize.use=shrnik"], "--set quantize.use=shrnik: quantize.use: no quantizer named 'shrnik' is installed"),
        (["quantize.shrink.tpye=q8"], "--set quantize.shrink.tpye=q8: quantize.shrink.tpye: unknown key 'tpye'; did you mean 'type'?"),
        (["quantize.shrnik.type=q8"], "quantize.shrnik: unknown table 'shrnik'; did you mean 'shrink'?"),
        (["finetune.tune.rate=fast"], "finetune.tune.rate: 'fast' is no float"),
        (["data.rows.chat=gone.jsonl"], "data.rows.chat: no such file: /gone.jsonl"),
        (["knowledge.vector_stoer=pile"], "knowledge.vector_stoer: unknown key 'vector_stoer'; did you mean 'vector_store'?"),
        (["knowledge.vector_store=hnswlib"], "knowledge.vector_store: no vector_store named 'hnswlib' is installed"),
        (["agent.tools=upper"], "agent.tools: is no list of names"),
        (['agent.tools=["uper"]'], "--set agent.tools=[\"uper\"]: tools.uper.use: no tool named 'uper' is installed"),
        (["tools.lower.use=upper"], "tools.lower: no agent uses this tool"),
        (["run.executor=ssh"], "run.use: no executor named 'ssh' is installed (installed: inline, local)"),
        (["target.context=4096"], "target.context: context 4096 is longer than the model's 1024"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(kernel: Kernel, recipe: Path, sets: list[str], said: str) -> None:
    assert said in refused(kernel, load(recipe, *sets))


def test_an_implied_step_that_does_not_fit_is_left_out_with_the_reason(
    tmp_path: Path, recipe: Path, kernel: Kernel, module: Module
) -> None:
    assert kernel.plan(load(recipe)).left_out is None, "the recipe says gates = false"
    write_recipe(recipe.parent, RECIPE.replace("gates = false", ""))
    plan = kernel.plan(load(recipe))
    assert plan.left_out and "no evaluator named 'gates' is installed (installed: count)" in plan.left_out
    assert "gates" not in [step.name for step in (*plan.steps, *plan.recipe.steps)]
    assert "no evaluator named 'gates' is installed" in refused(kernel, load(recipe, "gates.gates.task=3"))
    assert "did you mean 'type'?" in refused(kernel, load(recipe, "quantize.shrink.tpye=q8"))
    assert kernel.plan(load(recipe, "gates=false")).left_out is None

    @hookimpl
    def inhouse_evaluators() -> Iterator[EvaluatorSpec]:
        yield EvaluatorSpec(
            name="gates", summary="judges", factory="support.fakes:Count", consumes="model/*", produces="report/gates"
        )

    judging = Kernel(tmp_path, registry=registry({"judge": module("judge", inhouse_evaluators=inhouse_evaluators)}))
    plan = judging.plan(load(recipe))
    assert plan.left_out is None
    assert taken(plan)["gates"] == [(("quantize", "model/fake"),)]
    assert [step.name for step in plan.steps].index("gates") < [step.name for step in plan.steps].index("bundle")


def test_the_word_that_is_wrong_has_its_line(kernel: Kernel, recipe: Path) -> None:
    write_recipe(recipe.parent, RECIPE.replace('use = "shrink"', 'use = "gguf"'))
    message = refused(kernel, load(recipe))
    assert message.startswith(
        "/recipe.toml:23: quantize.use: no quantizer named 'gguf' is installed (installed: shrink)"
    )
    assert message.endswith("try: pip install inhouse-gguf")


@frozen
class Held:
    rounding: str = field(default="", metadata={"service": "rounding"})


@frozen
class Grid:
    type: str = field(default="fine", metadata={"names": "rounding"})


@pytest.fixture
def holding(tmp_path: Path, module: Module) -> Kernel:
    """A trainer with an option that names a rounding, a quantizer whose type names one, and two roundings."""

    @hookimpl
    def inhouse_trainers() -> Iterator[TrainerSpec]:
        kinds: Any = {"consumes": ("model/hf", "text/chat"), "produces": ("model/hf", "adapter/peft")}
        yield TrainerSpec(name="hold", summary="", factory="support.fakes:Tune", options=Held, **kinds)

    @hookimpl
    def inhouse_quantizers() -> Iterator[QuantizerSpec]:
        kinds: Any = {"consumes": "model/hf", "produces": "model/fake"}
        yield QuantizerSpec(name="grid", summary="", factory="support.fakes:Shrink", options=Grid, **kinds)

    @hookimpl
    def inhouse_roundings() -> Iterator[RoundingSpec]:
        for name in ("fine", "coarse"):
            yield RoundingSpec(name=name, summary="", factory="support.fakes:Pile")

    hooks = {each.__name__: each for each in (inhouse_trainers, inhouse_quantizers, inhouse_roundings)}
    return Kernel(tmp_path, registry=registry({"held": module("held", **hooks)}))


@pytest.mark.parametrize(
    ("asked", "type_", "named"),
    [("", "fine", None), ("coarse", "fine", "coarse"), ("auto", "fine", "fine"), ("auto", "coarse", "coarse")],
)
def test_an_option_may_name_a_service(holding: Kernel, recipe: Path, asked: str, type_: str, named: str | None) -> None:
    sets = (
        "finetune.use=hold",
        f'finetune.hold.rounding="{asked}"',
        "quantize.use=grid",
        f"quantize.grid.type={type_}",
    )
    step = next(each for each in holding.plan(load(recipe, *sets)).steps if each.name == "finetune")
    assert {slot: each.backend.spec.name for slot, each in step.chosen.slots.items()} == (
        {"rounding": named} if named else {}
    )
    assert step.chosen.counting()["slots"].keys() == step.chosen.slots.keys()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["finetune.hold.rounding=corse"], "finetune.hold.rounding: no rounding named 'corse' is installed (installed: coarse, fine)"),
        (["finetune.hold.rounding=auto"], "finetune.hold.rounding: no quantizer of this recipe names a rounding"),
        (
            ["finetune.hold.rounding=auto", "quantize.use=grid", "quantize.grid.type=auto"],
            "finetune.hold.rounding: \"auto\" is what quantize.grid.type says, and 'auto' is no rounding\n"
            '  try: quantize.grid.type = one of coarse, fine; or no "auto" here',
        ),
    ],
)  # fmt: skip
def test_a_service_that_an_option_names_in_vain_is_told(
    holding: Kernel, recipe: Path, sets: list[str], said: str
) -> None:
    assert said in refused(holding, load(recipe, "finetune.use=hold", *sets))


def test_tables_of_other_backends_stand_unread(kernel: Kernel, recipe: Path) -> None:
    kernel.plan(load(recipe, "quantize.bitsandbytes.type=nf4", "quantize.acme.bits=three"))


def test_the_network_needs_the_recipes_word(tmp_path: Path, recipe: Path, module: Module) -> None:
    @hookimpl
    def inhouse_quantizers() -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(
            name="afar", summary="", factory="support.fakes:Shrink", consumes="model/hf", produces="model/fake",
            features={"network"},
        )  # fmt: skip

    kernel = Kernel(tmp_path, registry=registry({"x": module("x", inhouse_quantizers=inhouse_quantizers)}))
    said = refused(kernel, load(recipe, "quantize.use=afar"))
    assert "quantizer 'afar' uses the network" in said
    assert "--set run.network=true" in said
    assert kernel.plan(load(recipe, "quantize.use=afar", "run.network=true"))


def test_a_tool_may_have_a_name_of_its_own(kernel: Kernel, recipe: Path) -> None:
    plan = kernel.plan(load(recipe, "tools.loud.use=upper", "tools.loud.file=chat.jsonl", 'agent.tools=["loud"]'))
    assert plan.answering.tools["loud"].options.file == recipe.parent / "chat.jsonl"


def test_the_probe_says_no_before_any_work(kernel: Kernel, recipe: Path) -> None:
    message = refused(kernel, load(recipe, "base.blank.refuse=no compiler"), ResourceError)
    assert message == "/recipe.toml:9: base.use: no compiler [fakes 1.0 (blank)]"
    assert not (kernel.home / "runs").exists()


def runtimes(*names: str, probe: bool = False) -> Any:
    @hookimpl
    def inhouse_runtimes() -> Iterator[RuntimeSpec]:
        factory = "refusing_runtime:Refusing" if probe else "support.fakes:Echo"
        for name in names:
            yield RuntimeSpec(name=name, summary="", factory=factory, consumes="model/hf")

    return inhouse_runtimes


class Refusing:
    """A runtime that cannot run here, or a backend whose probe is broken."""

    def __init__(self, options: Any) -> None: ...

    def probe(self) -> str:
        return "needs a GPU"


class Broken:
    def __init__(self, options: Any) -> None: ...

    def probe(self) -> str:
        raise KeyError("driver")


class Unmade:
    def __init__(self, options: Any) -> None:
        raise OSError("no license file")

    def probe(self) -> None: ...


def test_the_runtime_that_an_evaluator_uses_is_probed(tmp_path: Path, recipe: Path, module: Module) -> None:
    module("refusing_runtime", Refusing=Refusing)
    kernel = Kernel(tmp_path, registry=registry({"x": module("x", inhouse_runtimes=runtimes("gpu", probe=True))}))
    assert "needs a GPU" in refused(kernel, load(recipe, "runtime.use=gpu"), ResourceError)


def test_what_is_done_is_not_probed_again(kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.run(load(recipe))
    loaded: list[str] = []
    monkeypatch.setattr(Backend, "load", lambda self: loaded.append(self.spec.name))
    kernel.plan(load(recipe))
    assert loaded == []
    kernel.plan(load(recipe, "quantize.shrink.type=q8"))
    assert "shrink" in loaded
    assert "tune" not in loaded


def test_what_a_step_opens_is_probed_though_what_made_it_is_done(
    kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.run(load(recipe))
    monkeypatch.setattr(Pile, "probe", lambda self: "the library of piles is gone", raising=False)
    kernel.plan(load(recipe))
    message = refused(kernel, load(recipe, "quantize.shrink.type=q8"), ResourceError)
    assert "the library of piles is gone" in message


@pytest.mark.parametrize(
    ("cls", "said"), [(Broken, "probe: KeyError: 'driver'"), (Unmade, "Unmade cannot be made: OSError")]
)
def test_a_broken_probe_is_the_plugins_fault(
    tmp_path: Path, recipe: Path, module: Module, cls: type[Any], said: str
) -> None:
    @hookimpl
    def inhouse_quantizers() -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(
            name="acme", summary="", factory=f"probing:{cls.__name__}", consumes="model/hf", produces="a"
        )

    module("probing", **{cls.__name__: cls})
    kernel = Kernel(tmp_path, registry=registry({"x": module("x", inhouse_quantizers=inhouse_quantizers)}))
    message = refused(kernel, load(recipe, "quantize.use=acme"), PluginError)
    assert said in message
    assert "[x 1.0 (acme)]" in message


def test_two_runtimes_for_a_kind_matter_only_where_one_is_used(tmp_path: Path, recipe: Path, module: Module) -> None:
    kernel = Kernel(tmp_path, registry=registry({"x": module("x", inhouse_runtimes=runtimes("other"))}))
    text = RECIPE.replace('[runtime]\nuse = "echo"\n', "")
    message = refused(kernel, load(write_recipe(recipe.parent, text)))
    assert 'several runtimes open model/hf\n  try: [runtime] use = "echo" or "other"' in message
    quiet = text.replace(
        '[evaluate]\nuse = "count"\n', ""
    )  # the bundle needs one for model/fake, which only echo opens
    kernel.plan(load(write_recipe(recipe.parent, quiet)))


def test_no_runtime_for_what_an_evaluator_takes(tmp_path: Path, recipe: Path) -> None:
    without = registry()
    without._backends = [each for each in without._backends if each.spec.kind != "runtime"]
    text = RECIPE.replace('[runtime]\nuse = "echo"\n', "")
    kernel = Kernel(tmp_path, registry=without)
    assert "no installed runtime opens model/hf" in refused(kernel, load(write_recipe(recipe.parent, text)))


def test_artifacts_may_be_given(kernel: Kernel, tmp_path: Path) -> None:
    model = Artifact("model/hf", tmp_path, "abc")
    recipe = Recipe.of({"quantize": {"use": "shrink"}}, path=tmp_path / "recipe.toml")
    assert taken(kernel.plan(recipe, {("mine", "model/hf"): model})) == {"quantize": [(("mine", "model/hf"),)]}


# --- disk -------------------------------------------------------------------------------------------


def test_disk_is_estimated_from_what_sources_say_and_what_is_done(kernel: Kernel, recipe: Path) -> None:
    small, large = (kernel.plan(load(recipe, f"base.blank.bytes={each}")) for each in (100, 10**9))
    assert disk_needed(small, {}) < 10_000 < 6 * 10**9 < disk_needed(large, {})
    kernel.run(small.recipe)
    assert disk_needed(small, kernel.cached(small)) == 0


def test_given_artifacts_count(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.bin").write_bytes(b"x" * 1000)
    model = Artifact("model/hf", tmp_path / "model", "abc")
    recipe = Recipe.of({"quantize": {"use": "shrink"}}, path=tmp_path / "recipe.toml")
    assert disk_needed(kernel.plan(recipe, {("mine", "model/hf"): model}), {}) >= tree_bytes(model.path)


def test_too_little_disk_is_told_before_any_work(kernel: Kernel, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 << 20))
    kernel.run(load(recipe))
    with pytest.raises(ResourceError, match=r"the plan needs \d+\.\d GB on disk and 0\.3 GB are free") as caught:
        kernel.run(load(recipe, "base.blank.bytes=1000000000", "base.blank.text=big"))
    assert caught.value.exit_code == 2
    assert "INHOUSE_HOME" in str(caught.value)


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be made"):
        Store(tmp_path / "file" / "home").check_disk(0)


TMPFS = """
set -e
mkdir -p "$1"
mount -t tmpfs -o size=64m tmpfs "$1"
cd "$2"
exec "$3" -m support.run_fakes "$2/recipe.toml" "$1/home"
"""


def test_a_full_disk_for_real(recipe: Path, tmp_path: Path) -> None:
    """A tmpfs of 64 MiB as the store's disk, in a mount namespace of its own where the system allows one."""
    if subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no user namespaces with mounts here")
    made = subprocess.run(
        ["unshare", "-rm", "bash", "-c", TMPFS, "bash", str(tmp_path / "disk"), str(recipe.parent), sys.executable],
        env=environment(),
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2, made.stderr
    assert "0.1 GB are free" in made.stderr


def test_the_registry_of_installed_plugins_has_the_local_executor() -> None:
    assert Registry().get("executor", "local").distribution == "inhouse"
