"""The gates on a tiny model that was really tuned, quantised and loaded: what they let through, and what they stop."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from inhouse import Kernel, Recipe
from inhouse.bus import Bus
from inhouse.errors import RecipeError, StepError
from inhouse.plugins import Registry
from inhouse_gates import GateChecked
from support.tiny_llama import make_model

from .test_quantization_aware import write_chats

PLUGINS = {"builtin", "data", "smollm2", "torch", "peft", "gguf", "llamacpp", "transformers", "bitsandbytes", "gates"}
RECIPE = """
name = "gated"
[target]
context = 128
memory = "1GiB"
[base]
use = "local"
[base.local]
path = "base"
[data]
use = "jsonl"
[data.jsonl]
chat = "train.jsonl"
heldout = "heldout.jsonl"
[finetune]
use = "lora"
[finetune.lora]
rank = 8
learning_rate = 1e-2
compute_dtype = "float32"
epochs = 4
[quantize]
use = "gguf"
[quantize.gguf]
type = "q8_0"
[gates]
use = "gates"
[runtime]
use = "transformers"
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's use of it
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    make_model(folder / "base", initializer_range=0.05)
    write_chats(folder / "train.jsonl", 24, 100)
    write_chats(folder / "heldout.jsonl", 8, 500)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


class Runs:
    """Runs the recipe in one home, and keeps the events of its gates."""

    def __init__(self, project: Path) -> None:
        self.project = project
        registry = Registry([each for each in entry_points(group="inhouse") if each.name in PLUGINS])
        self.kernel = Kernel(project / "home", registry=registry)
        self.checked: list[GateChecked] = []

    def __call__(self, *sets: str) -> dict[str, str]:
        """State of each gate."""
        bus = Bus()
        bus.subscribe(GateChecked, self.checked.append)
        self.checked.clear()
        run = self.kernel.run(Recipe.load(self.project / "recipe.toml", set=sets, environment={}), bus=bus)
        self.noted = run["gates"].meta["gates"]
        return {name: each["state"] for name, each in self.noted.items()}


@pytest.fixture
def run(project: Path) -> Runs:
    return Runs(project)


def test_a_faithful_file_passes(run: Runs) -> None:
    assert run() == {"parity": "passed", "survival": "passed", "fit": "passed", "task": "skipped"}
    assert [(each.gate, each.state) for each in run.checked] == [
        ("parity", "passed"), ("survival", "passed"), ("fit", "passed"), ("task", "skipped"),
    ]  # fmt: skip
    said = run.noted["parity"]["measured"]
    assert "33 chats give the same tokens" in said
    assert "33 of them through the Modelfile's template" in said
    assert "the template takes no tools" in said
    assert "greedy tokens the same answer" in said
    assert "2 answers end by themselves" in said


def test_a_gate_that_fails_ends_the_run_and_may_be_accepted(run: Runs) -> None:
    little = ("quantize.gguf.type=q2_k", "finetune.lora.learning_rate=1e-4")
    with pytest.raises(StepError, match="gate survival failed: tuning changed") as caught:
        run(*little)
    assert caught.value.exit_code == 1
    assert "--accept survival" in str(caught.value.hint)
    report = json.loads(Path(str(caught.value.where)).read_text())
    states = {each["gate"]: each["state"] for each in report["gates"]}
    assert states["survival"] == "failed"
    accepted = [gate for gate, state in states.items() if state == "failed"]
    assert run(*little, f"gates.gates.accept={accepted}")["survival"] == "failed"
    assert run.noted["survival"]["accepted"] is True
    assert next(each for each in run.checked if each.gate == "survival").accepted


def test_a_machine_that_is_too_small_or_too_slow(run: Runs) -> None:
    with pytest.raises(StepError, match="gate fit failed: the file has"):
        run("target.memory=100KB")
    with pytest.raises(StepError, match=r"gate fit failed: file .* tokens/s \(target 100000000\)"):
        run("target.speed=100000000")


def test_a_machine_with_too_little_disk(run: Runs) -> None:
    with pytest.raises(
        StepError, match=r"gate fit failed: model and knowledge base take .* of disk, the target has 0 MB"
    ):
        run("target.disk=100KB")
    assert run("target.disk=100MB")["fit"] == "passed"
    assert "on disk (target 100 MB)" in run.noted["fit"]["measured"]


def test_another_kind_of_quantised_model_is_judged_too(run: Runs) -> None:
    # of torch built for CUDA, as PyPI has it, a process with nothing in it takes nearly 1 GiB
    memory = "1GiB" if torch.version.cuda is None else "2GiB"
    states = run("quantize.use=bitsandbytes", f"target.memory={memory}", 'gates.gates.accept=["survival"]')
    assert states["parity"] == "skipped"
    assert states["fit"] == "passed"
    assert states["survival"] in ("passed", "failed")


def test_a_template_that_changed_on_the_way_is_found(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from inhouse_gguf import tokenizer

    keep = tokenizer._keep_template_plain

    def spoil(special: object) -> None:
        keep(special)  # type: ignore[arg-type]
        special.chat_template = special.chat_template.replace("<|im_end|>", "<|im_end|> ")  # type: ignore[attr-defined]

    monkeypatch.setattr(tokenizer, "_keep_template_plain", spoil)
    with pytest.raises(StepError, match="gate parity failed: the GGUF's template differs from transformers at token"):
        run("quantize.gguf.type=f32")


def test_tools_are_rendered_by_both(run: Runs) -> None:
    template = run.project / "base" / "chat_template.jinja"
    plain = template.read_text()
    head = "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}</tools>{% endif %}"
    try:
        template.write_text(head + plain)
        assert run()["parity"] == "passed"
        assert "4 of them with tools" in run.noted["parity"]["measured"]
    finally:
        template.write_text(plain)


def test_wrong_weights_are_found(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query heads that were not reordered give the same tokens, and another answer."""
    import attrs

    from inhouse_gguf import convert, families

    broken = attrs.evolve(families.LLAMA, arrange=lambda source, name, values: values)
    monkeypatch.setattr(convert, "family_of", lambda source: broken)
    with pytest.raises(StepError, match=r"the converted model (leaves transformers' answer|is \d\.\d+ nats)"):
        run("quantize.gguf.type=bf16")


def test_an_unknown_gate_is_refused_at_once(run: Runs) -> None:
    with pytest.raises(RecipeError, match="no gate 'speed'"):
        run('gates.gates.accept=["speed"]')
