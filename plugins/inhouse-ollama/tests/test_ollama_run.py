"""A run ends with the model in Ollama: what the bundle says, once, and nobody else's model is lost."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import pytest

from inhouse import InhouseError, Kernel, Recipe
from inhouse.artifacts import file_digest

Run = Callable[..., list[str]]
TEMPLATE = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
SYSTEM = 'You are "the desk".\nUse few words.'
OTHER = "base.tiny.fill=1.0"
"""Another model of the same name."""


def place(kernel: Kernel) -> Path:
    return kernel.home / "bundles" / "desk"


def record(kernel: Kernel) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((kernel.home / "bundles" / ".desk.ollama.json").read_text())
    return found


def sent(server: Any) -> int:
    found: int = server.count("POST", "/api/blobs/")
    return found


def names(client: ollama.Client) -> list[str]:
    return [str(each.model) for each in client.list().models]


def test_the_official_client_finds_what_the_bundle_says(
    kernel: Kernel, server: Any, client: ollama.Client, run: Run
) -> None:
    told = run()
    assert names(client) == ["desk:latest"]
    shown = client.show("desk")
    blob = file_digest(place(kernel) / "model" / "model.gguf")
    assert shown.template == TEMPLATE
    assert f"sha256-{blob}\n" in (shown.modelfile or "")
    assert f'SYSTEM """{SYSTEM}"""' in (shown.modelfile or "")
    assert sorted(line.split() for line in (shown.parameters or "").splitlines()) == [
        ["num_ctx", "512"], ["stop", '"<|im_end|>"'], ["temperature", "0"],
    ]  # fmt: skip
    answer = client.chat("desk", messages=[{"role": "user", "content": "Hello?"}])
    assert answer.message.content == f"{SYSTEM}|Hello?"
    assert server.bodies[0]["files"] == {"model.gguf": f"sha256:{blob}"}
    assert f"Ollama has it: OLLAMA_HOST={server.url} ollama run desk:latest" in told


def test_the_bundle_is_that_of_folder(kernel: Kernel, run: Run, recipe_file: Path) -> None:
    """The same files, and a lineage whose recipe makes it again without a server."""
    run()
    folder = place(kernel)
    assert {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()} == {
        "Modelfile", "README.md", "bundle.json", "files/agent/system.txt", "lineage.json", "model/model.gguf",
        "report.html", "report.json",
    }  # fmt: skip
    lineage = json.loads((folder / "lineage.json").read_text())
    assert tomllib.loads(lineage["recipe"])["bundle"]["use"].endswith("folder")
    assert b"127.0.0.1" not in b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())


def test_what_was_made_is_written_down(kernel: Kernel, server: Any, client: ollama.Client, run: Run) -> None:
    run("bundle.ollama.model=shop/desk:v2")
    found = record(kernel)
    blob = file_digest(place(kernel) / "model" / "model.gguf")
    assert (found["host"], found["model"]) == (server.url, "shop/desk:v2")
    assert (found["blob"], found["server_blob"]) == (blob, blob)
    assert found["digest"] == client.list().models[0].digest
    assert (found["version"], found["checked"]) == ("0.12.3", True)


def test_a_second_run_sends_and_changes_nothing(server: Any, client: ollama.Client, run: Run) -> None:
    run()
    asked = len(server.asked)
    assert run() == []
    assert {method for method, _ in server.asked[asked:]} == {"GET"}


def test_a_model_that_is_gone_is_made_again_without_its_file(server: Any, client: ollama.Client, run: Run) -> None:
    run()
    client.delete("desk")
    run()
    assert names(client) == ["desk:latest"]
    assert sent(server) == 1


def test_another_name_and_another_server_make_no_other_bundle(
    kernel: Kernel, server: Any, client: ollama.Client, run: Run, tmp_path: Path
) -> None:
    from ollama_server import serving  # type: ignore[import-not-found]

    run()
    made = len(kernel.store.all())
    run("bundle.ollama.model=second")
    assert names(client) == ["desk:latest", "second:latest"]
    with serving(tmp_path / "second") as other:
        told = run(f"bundle.ollama.host={other.url}")
        assert [each.name for each in other.manifests.iterdir()] == ["desk:latest"]
        assert sent(other) == 1
    assert any(each.startswith("sending 0.") for each in told)
    assert sent(server) == 1
    assert len(kernel.store.all()) == made


def test_a_new_bundle_takes_the_place_of_ours(server: Any, client: ollama.Client, run: Run) -> None:
    run()
    told = run(OTHER)
    assert names(client) == ["desk:latest"]
    assert sent(server) == 2
    assert not any("another desk" in each for each in told)


def test_a_model_of_somebody_else_is_kept(server: Any, client: ollama.Client, run: Run) -> None:
    run("bundle.ollama.model=theirs")
    for name in ("desk:latest", "desk:latest-1"):
        client.create(name, files=server.bodies[0]["files"], system="mine")
    client.delete("theirs")
    before = {each.model: each.digest for each in client.list().models}
    told = run()
    after = {each.model: each.digest for each in client.list().models}
    assert "Ollama had another desk:latest; that one is now desk:latest-2" in told
    assert after["desk:latest-2"] == before["desk:latest"]
    assert after["desk:latest-1"] == before["desk:latest-1"]
    assert after["desk:latest"] != before["desk:latest"]


def test_unless_the_recipe_says_otherwise(server: Any, client: ollama.Client, run: Run) -> None:
    run("bundle.ollama.model=theirs")
    client.create("desk", files=server.bodies[0]["files"], system="mine")
    run("bundle.ollama.keep=false")
    assert names(client) == ["desk:latest", "theirs:latest"]


def test_what_its_owner_changed_there_is_left_alone(server: Any, client: ollama.Client, run: Run) -> None:
    run()
    client.create("desk", files=server.bodies[0]["files"], system="changed")
    before = client.list().models[0].digest
    assert run() == ["desk:latest was changed in Ollama since it was made; it is left as it is"]
    assert client.list().models[0].digest == before
    told = run(OTHER)  # another bundle has the name now
    assert "Ollama had another desk:latest; that one is now desk:latest-1" in told
    assert {each.model: each.digest for each in client.list().models}["desk:latest-1"] == before


def test_killed_before_it_was_written_down(kernel: Kernel, server: Any, client: ollama.Client, run: Run) -> None:
    run()
    (kernel.home / "bundles" / ".desk.ollama.json").write_text("{half")
    run()
    assert names(client) == ["desk:latest"]
    assert server.count("POST", "/api/create") == 1
    assert record(kernel)["checked"] is True


def test_without_template_and_system(server: Any, run: Run, recipe_file: Path) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text[: text.index("[agent]")] + text[text.index("[bundle]") :])
    told = run("base.tiny.template={{ messages[0].content }}")
    assert server.bodies[0].keys() == {"model", "stream", "files", "parameters"}
    assert any("and Ollama guesses one" in each for each in told)


def test_a_server_that_prefers_the_template_of_the_file(server: Any, client: ollama.Client, run: Run) -> None:
    from ollama_parts import CHATML  # type: ignore[import-not-found]

    server.shows = lambda answer: {**answer, "template": CHATML}
    run()
    assert names(client) == ["desk:latest"]


def test_a_server_that_writes_the_file_anew_is_told_of(
    kernel: Kernel, server: Any, client: ollama.Client, run: Run
) -> None:
    server.shows = lambda answer: {**answer, "modelfile": f'FROM /x/sha256-{"a" * 64}\nSYSTEM """{SYSTEM}"""\n'}
    assert any("not the file that was sent" in each for each in run())
    assert record(kernel)["server_blob"] == "a" * 64


def test_parameters_that_the_server_adds_are_told_of(server: Any, client: ollama.Client, run: Run) -> None:
    server.shows = lambda answer: {**answer, "parameters": answer["parameters"] + "\ntop_k    4"}
    assert "Ollama adds parameters of its own: top_k" in run()


def test_other_kinds_are_refused_by_the_plan(kernel: Kernel, recipe_file: Path) -> None:
    with pytest.raises(InhouseError, match="needs model/gguf; the steps before it make model/hf"):
        kernel.plan(Recipe.load(recipe_file, set=["base.use=other"], environment={}))
