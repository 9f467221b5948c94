"""What options a backend has."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from attrs import NOTHING, Factory, fields


def described(kind: type[Any]) -> list[tuple[str, str, Any, str]]:
    """(name, type, default, help) of each option, for docs and ``inhouse step``."""
    rows, hints = [], get_type_hints(kind)
    for each in fields(kind):
        default = each.default
        if isinstance(default, Factory):  # type: ignore[arg-type]
            default = default.factory() if not default.takes_self else "…"
        hint = hints[each.name]
        shown = str(hint).replace("pathlib.", "").replace("typing.", "") if get_args(hint) else hint.__name__
        rows.append((each.name, shown, None if default is NOTHING else default, each.metadata.get("help", "")))
    return rows
