"""What the bundle's Modelfile says is read back to the letter, and the plugin is light."""

from __future__ import annotations

from pathlib import Path

import pytest

from inhouse.errors import ArtifactError
from inhouse_bundle.gguf_file import Chat
from inhouse_bundle.modelfile import modelfile
from inhouse_ollama.held import differences, read_held
from inhouse_ollama.modelfile import Wanted, read_modelfile
from inhouse_ollama.words import shown
from inhouse_testing import conformance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_the_plugin_is_light_and_honest() -> None:
    conformance.check_light("inhouse_ollama")
    (spec,) = conformance.specs("inhouse_ollama")
    conformance.check_spec(spec)


def test_it_takes_what_folder_takes_and_has_its_version() -> None:
    (ours,), (folder,) = conformance.specs("inhouse_ollama"), conformance.specs("inhouse_bundle")
    assert ours.version == folder.version
    assert [each.kind for each in ours.consumes[1:]] == [each.kind for each in folder.consumes[1:]]
    assert ours.target == folder.target


@pytest.mark.parametrize("system", [None, "One.", 'Say "hello".\n\n# no comment\nPARAMETER stop x\nFROM here.', " a "])
def test_what_the_bundle_writes_is_read_back(folder: Path, system: str | None) -> None:
    from ollama_parts import CHATML  # type: ignore[import-not-found]

    chat = Chat(CHATML, "<|im_start|>", "<|endoftext|>", "<|im_end|>")
    text = modelfile(folder / "model" / "model.gguf", chat, context=1024, system=system)
    (folder / "Modelfile").write_text(text)
    found = read_modelfile(folder)
    assert found.file == folder / "model" / "model.gguf"
    assert found.template is not None
    assert found.template.startswith("{{ range .Messages }}<|im_start|>")
    assert found.template.endswith("<|im_start|>assistant\n")
    assert found.system == system
    assert found.parameters == {"stop": ["<|im_end|>", "<|endoftext|>"], "num_ctx": 1024, "temperature": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no file"),
        ("PARAMETER num_ctx 5\n", "names no file"),
        ("FROM ./model/none.gguf\n", "names no file"),
        ("FROM ./model/model.gguf\nADAPTER x\n", "Modelfile:2: is no instruction"),
        ('FROM ./model/model.gguf\nSYSTEM """a\nb', "Modelfile:2: is no instruction"),
        ("FROM ./model/model.gguf", "Modelfile:1: is no instruction"),
    ],
)
def test_another_modelfile_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "Modelfile").write_text(text)
    with pytest.raises(ArtifactError, match=said):
        read_modelfile(folder)


def test_no_modelfile(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_modelfile(folder)


def test_what_the_server_shows_is_compared_by_value() -> None:
    wanted = Wanted(Path("x"), "t", 'a "b"', {"stop": ["<a>", "é\tx"], "num_ctx": 4096, "temperature": 0.7})
    shows = 'stop                           "<a>"\nstop                           "é\\tx"\n'
    numbers = "num_ctx                        4096\ntemperature                    0.7"
    held = read_held("t", "FROM /b/sha256-" + "0" * 64 + '\nSYSTEM a "b"\n', shows + numbers)
    assert differences(wanted, held, "") == []
    assert held.blob == "0" * 64
    other = read_held("own", "FROM x", numbers.replace("4096", "4096.5"))
    assert differences(wanted, other, "own") == [
        "not the system message", "stop not set instead of <a>, é\tx", "num_ctx 4096.5 instead of 4096",
    ]  # fmt: skip
    assert other.blob is None
    assert differences(Wanted(Path("x")), other, "") == []


def test_text_of_a_server_is_one_short_line() -> None:
    assert shown("a\x1b[31m\r\nb\u202e") == "a [31m b"
    assert len(shown("x" * 10_000)) == 301
