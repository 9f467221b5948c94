"""The house: imports go down the floors, files stay small, and what is installed is what is written."""

from __future__ import annotations

import ast
import configparser
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from inhouse.known import FIRST_PARTY

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "core" / "inhouse").rglob("*.py"))


def test_imports_go_down_the_floors() -> None:
    console = Path(sys.executable).with_name("lint-imports")
    made = subprocess.run([str(console), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout


def test_every_module_is_on_a_floor() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    floors = {name.strip() for floor in contract["layers"] for name in floor.split("|")}
    modules = {f"inhouse.{each.relative_to(ROOT / 'core/inhouse').with_suffix('').parts[0]}" for each in CORE}
    assert modules - floors <= {"inhouse.__init__", "inhouse.__main__"}


def test_the_core_depends_on_the_five() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert sorted(re.split(r"[<>=]", each)[0] for each in needs) == ["attrs", "cattrs", "click", "pluggy", "structlog"]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_imports_a_third_party_package_beyond_the_five(path: Path) -> None:
    """Also inside functions. What the five import themselves (structlog takes rich where it is) is theirs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    assert found - sys.stdlib_module_names <= {"inhouse", "attrs", "cattrs", "click", "pluggy", "structlog"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 50, f"{node.name} has {length} lines"


NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """Lines that hold code: without blank lines, comments and docstrings."""
    tokens = [each for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type not in NO_CODE]
    lines = {line for each in tokens for line in range(each.start[0], each.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_the_core_stays_small() -> None:
    assert code_lines('"""A\n\nB"""\n\n# why\nx = """1\n2"""\n"""Of x."""\n') == 2
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in CORE) < 2500


def test_the_entry_points_file_is_what_is_installed() -> None:
    written = configparser.ConfigParser()
    written.read(ROOT / "entry_points.txt")
    installed = {(each.group, each.name, each.value) for each in distribution("inhouse").entry_points}
    assert installed == {(group, name, value) for group in written.sections() for name, value in written[group].items()}


def test_what_to_install_for_a_backend_is_what_declares_it() -> None:
    """The hint ``pip install inhouse-x`` names the plugin folder whose module declares that backend."""
    for (kind, name), package in FIRST_PARTY.items():
        folder = ROOT / "plugins" / package
        sources = "".join(each.read_text(encoding="utf-8") for each in (folder / "src").glob("*/__init__.py"))
        assert f'name="{name}"' in sources, f"{package} does not declare {kind} {name!r}"


def test_every_first_party_backend_is_known() -> None:
    for folder in sorted((ROOT / "plugins").iterdir()):
        for module in (folder / "src").glob("*/__init__.py"):
            for name in re.findall(r'Spec\(\s*name="([\w-]+)"', module.read_text(encoding="utf-8")):
                assert any(each == name for _, each in FIRST_PARTY), f"{folder.name}: {name}"
