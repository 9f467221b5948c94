"""Writes the tables of options in docs/recipe.md from the installed first-party plugins (``--check``: compares)."""

from __future__ import annotations

import sys
from pathlib import Path

from inhouse.known import FIRST_PARTY
from inhouse.plugins import Registry
from inhouse_commands.described import described

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"
MARK = "<!-- options -->"


def tables() -> str:
    """One section for each first-party backend."""
    registry = Registry()
    parts = []
    for (kind, name), distribution in FIRST_PARTY.items():
        if kind == "command":
            continue
        spec = registry.get(kind, f"{distribution}:{name}").spec
        parts.append(f"### {kind} `{name}` ({distribution})\n\n{spec.summary[0].upper()}{spec.summary[1:]}.\n")
        rows = described(spec.options)
        if rows:
            parts.append("| option | default | what |\n|---|---|---|")
            parts += [f"| `{option}` | {_shown(default)} | {_cell(text)} |" for option, _, default, text in rows]
            parts.append("")
    return "\n".join(parts)


def _shown(default: object) -> str:
    return "" if default is None or default == "" else f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Writes or checks."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = page[: page.index(MARK)] + MARK + "\n\n" + tables()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != page:
        sys.exit("docs/recipe.md does not show the installed options; run: .venv/bin/python contrib/dev/options.py")


main()
