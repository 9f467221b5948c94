"""The option ``converter``: llama.cpp's own converter, for architectures that are not known here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from inhouse.errors import StepError
from inhouse.values import Artifact
from inhouse_gguf import GgufOptions
from inhouse_gguf.facts import metadata
from inhouse_gguf.quantizer import GgufQuantizer

SCRIPT = """
import json, sys
from pathlib import Path
from inhouse_gguf.convert import convert
folder, (_, out, _, kind) = Path(sys.argv[1]), sys.argv[2:]
path = folder / "config.json"
content = path.read_text()
path.write_text(json.dumps({**json.loads(content), "architectures": ["LlamaForCausalLM"]}))
convert(folder, Path(out), kind.upper(), lambda *_: None)
path.write_text(content)
"""
"""Stands in for convert_hf_to_gguf.py, with its arguments: MODEL --outfile OUT --outtype TYPE."""


@pytest.fixture
def strange(model: Path, tmp_path: Path) -> Path:
    """A model whose architecture is not known here."""
    folder = Path(shutil.copytree(model, tmp_path / "strange"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "architectures": ["StrangeForCausalLM"]}))
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a converter."""

    def made(text: str) -> Path:
        path = tmp_path / "convert hf; to gguf.py"
        path.write_text(text)
        return path

    return made


def _run(step: Any, folder: Path, converter: Path, type: str) -> Path:
    options = GgufOptions(type=type, threads=1, converter=converter)
    GgufQuantizer(options).quantize(step, Artifact("model/hf", folder, "digest"))
    return Path(step.output / "model.gguf")


@pytest.mark.parametrize(("type", "found"), [("bf16", 32), ("q8_0", 7)])
def test_it_converts_what_is_not_known(
    step: Any, strange: Path, script: Callable[[str], Path], type: str, found: int
) -> None:
    path = _run(step, strange, script(SCRIPT), type)
    assert metadata(path)["general.file_type"] == found
    assert list(step.output.iterdir()) == [path]
    assert "converting with convert hf; to gguf.py" in step.told


def test_it_is_not_used_for_what_is_known(step: Any, model: Path, script: Callable[[str], Path]) -> None:
    assert _run(step, model, script("raise SystemExit('should not run')"), "f16").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "import sys\nprint('one', file=sys.stderr)\nsys.exit('Model StrangeForCausalLM is not supported')",
            "exit code 1.*one Model Strange",
        ),
        ("import os\nos.kill(os.getpid(), 9)", "SIGKILL"),
        ("", "wrote no GGUF"),
        ("import sys\nopen(sys.argv[3], 'w').write('no')", "wrote no GGUF"),
    ],
    ids=["refuses", "killed", "nothing", "something-else"],
)
def test_its_failure_is_told(step: Any, strange: Path, script: Callable[[str], Path], text: str, match: str) -> None:
    with pytest.raises(StepError, match=match) as caught:
        _run(step, strange, script(text), "f16")
    assert "to gguf.py" in str(caught.value.where)
    assert list(step.output.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
def test_whoever_stops_the_step_stops_it(step: Any, strange: Path, script: Callable[[str], Path]) -> None:
    slow = script("import sys, time\nopen(sys.argv[3], 'w').write('half')\ntime.sleep(60)")
    with pytest.raises(KeyboardInterrupt):
        _run(evolve(step, stop_at="converting with"), strange, slow, "f16")
    assert list(step.output.iterdir()) == []
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not [each for each in children if "to gguf.py" in Path(f"/proc/{each}/cmdline").read_text()]
