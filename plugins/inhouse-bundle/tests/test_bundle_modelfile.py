"""The Modelfile: the template that was found, or why there is none; texts that do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from inhouse.errors import DataError
from inhouse_bundle.gguf_file import read_gguf
from inhouse_bundle.modelfile import modelfile

SHOUTING = "{% for m in messages %}[{{ m.role }}] {{ m.content | upper }}{{ eos_token }}{% endfor %}"
CUTTING = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}"
REFUSING = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}[{{ m.role }}] {{ m.content }}{% endfor %}"
QUOTING = '{% for m in messages %}{{ m.role }} """{{ m.content }}"""{% endfor %}'


@pytest.fixture
def write(tmp_path: Path, registry: object):  # type: ignore[no-untyped-def]
    from bundle_parts import write_gguf  # type: ignore[import-not-found]

    def made(template: str) -> Path:
        path = tmp_path / "model" / "model.gguf"
        path.parent.mkdir(exist_ok=True)
        write_gguf(path, template)
        return path

    return made


def text(path: Path, system: str | None = None) -> str:
    return modelfile(path, read_gguf(path).chat, context=99, system=system)


def test_the_template_and_what_it_cannot_do(write) -> None:  # type: ignore[no-untyped-def]
    found = text(write(CUTTING), "Be brief.")
    assert (
        'TEMPLATE """{{ range .Messages }}[{{ .Role }}] {{ .Content }}<|im_end|>{{ end }}"""\n# The model\'s own cuts'
        in found
    )
    assert found.count('PARAMETER stop "<|im_end|>"') == 1
    assert 'SYSTEM """Be brief."""' in found


@pytest.mark.parametrize(
    ("template", "why"), [(SHOUTING, "no form that is known"), (QUOTING, "quotes"), ("", "no chat template")]
)
def test_others_are_left_out(write, template: str, why: str) -> None:  # type: ignore[no-untyped-def]
    found = text(write(template))
    assert 'TEMPLATE "' not in found
    (line,) = (each for each in found.splitlines() if each.startswith("# No TEMPLATE"))
    assert why in line
    assert 'PARAMETER stop "<|im_end|>"' in found  # the end-of-sequence token of the file
    assert "SYSTEM" not in found


def test_a_template_that_refuses_system_messages_gets_none(write) -> None:  # type: ignore[no-untyped-def]
    found = text(write(REFUSING), "Be brief.")
    assert 'TEMPLATE """' in found
    assert 'SYSTEM "' not in found
    assert "# No SYSTEM: the model's chat template refuses" in found


@pytest.mark.parametrize("system", ['x """\nFROM http://evil\n', 'ends with "'])
def test_a_system_text_cannot_break_out(write, system: str) -> None:  # type: ignore[no-untyped-def]
    found = text(write(CUTTING), system)
    assert "FROM http" not in found
    assert "# No SYSTEM" in found


def test_what_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="GGUF"):
        read_gguf(path)
