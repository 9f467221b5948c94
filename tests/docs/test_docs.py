"""Documents say what is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from inhouse import Kernel, Recipe
from inhouse.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def test_options_in_the_recipe_page_are_the_installed_ones() -> None:
    script = ROOT / "contrib" / "dev" / "options.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_commands_that_the_readme_shows_exist() -> None:
    shown = set(re.findall(r"^inhouse (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert shown
    assert shown <= COMMANDS.keys()


def test_the_readme_begins_with_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").split("\n")
    code = lines[lines.index("```sh") + 1 :][:2]
    assert [line.split()[:2] for line in code] == [["make", "demo"], ["make", "test"]]


def test_python_in_the_plugin_page_runs() -> None:
    """Blocks are modules: they import, and what they declare are hooks."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        names: dict[str, object] = {}
        exec(compile(block, "docs/plugins.md", "exec"), names)  # noqa: S102  our own page
        hooks = [value for key, value in names.items() if key.startswith("inhouse_")]
        assert hooks or "AcmeQuantizer" in names


@pytest.mark.parametrize("page", ["docs/knowledge.md", "plugins/inhouse-documents/README.md"])
def test_the_recipe_of_a_page_about_documents_can_be_planned(page: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)[:1]
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "boots.md").write_text("# Boots\n\nA warranty of 18 months.\n")
    recipe = tmp_path / "recipe.toml"
    lines = [line for line in block.splitlines() if not line.startswith("cross_encoder")]  # a folder of one's own
    if "[knowledge]" not in lines:
        lines += ["[knowledge]", 'use = "sqlite"']
    recipe.write_text("\n".join(lines))
    plan = Kernel(tmp_path / "home").plan(Recipe.load(recipe, environment={}))
    assert [step.name for step in plan.steps] == ["handbook", "knowledge"]
