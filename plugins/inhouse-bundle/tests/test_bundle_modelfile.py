"""The Modelfile: ChatML is found by rendering, hostile templates and texts do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from inhouse.errors import ArtifactError
from inhouse_bundle.chatml import expected, is_chatml, renders_chatml
from inhouse_bundle.gguf_file import read_gguf
from inhouse_bundle.modelfile import modelfile

MARKS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def write(tmp_path: Path, registry: object):  # type: ignore[no-untyped-def]
    from bundle_parts import write_gguf  # type: ignore[import-not-found]

    def made(template: str) -> Path:
        path = tmp_path / "model" / "model.gguf"
        path.parent.mkdir(exist_ok=True)
        write_gguf(path, template)
        return path

    return made


def test_chatml_is_found_by_rendering(registry: object) -> None:
    from bundle_parts import CHATML

    assert renders_chatml(CHATML, "<|im_start|>", "<|im_end|>")
    assert is_chatml(CHATML, "<|im_start|>", "<|im_end|>")
    assert not renders_chatml(MARKS, "<s>", "</s>")
    assert not renders_chatml("{{ bos_token }}" + CHATML, "<s>", "</s>")


def test_chatml_text() -> None:
    assert expected((("user", "a"),), generate=True) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{% if",
        "{{ cycler.__init__.__globals__.os.system('echo x') }}",
        "{{ 'a' * 10000000000 }}",
        "{{ raise_exception('no system message') }}",
        "{% for a in messages %}{{ a.append(1) }}{% endfor %}",
    ],
)
def test_hostile_templates_are_none(template: str) -> None:
    assert not is_chatml(template, "", "")


def test_other_templates_are_left_out(write) -> None:  # type: ignore[no-untyped-def]
    path = write(MARKS)
    text = modelfile(path, read_gguf(path).chat, context=99, system=None)
    assert 'TEMPLATE "' not in text
    assert "# No TEMPLATE" in text
    assert 'PARAMETER stop "<|im_end|>"' in text  # the end-of-sequence token of the file
    assert "SYSTEM" not in text


@pytest.mark.parametrize("system", ['x """\nFROM http://evil\n', 'ends with "'])
def test_a_system_text_cannot_break_out(write, system: str) -> None:  # type: ignore[no-untyped-def]
    path = write(MARKS)
    text = modelfile(path, read_gguf(path).chat, context=99, system=system)
    assert "FROM http" not in text
    assert "# No SYSTEM" in text


def test_what_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="GGUF"):
        read_gguf(path)
