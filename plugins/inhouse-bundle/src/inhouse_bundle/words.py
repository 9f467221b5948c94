"""Numbers and text as people read them; ``None`` is a dash."""

from __future__ import annotations

import re
from collections.abc import Mapping

from inhouse.values import Json

_DASH = "–"


def size(count: float | None) -> str:
    """``105.4 MB``: decimal units, as disks and downloads are sold."""
    if count is None:
        return _DASH
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def share(value: float | None) -> str:
    """``65 %``."""
    return _DASH if value is None else f"{100 * value:.0f} %"


def decimal(value: float | None, digits: int = 2) -> str:
    """A fixed number of decimals."""
    return _DASH if value is None else f"{value:.{digits}f}"


def chance(value: float | None) -> str:
    """A p value."""
    if value is None:
        return _DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """``8.4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds is None:
        return _DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def markdown(value: object) -> str:
    """Text for one line or table cell of Markdown, with nothing in it that Markdown or HTML acts on."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return re.sub(r"([\\`*\[\]<>|&#!~$])", r"\\\1", line)


def gate(judged: Mapping[str, Json]) -> str:
    """``passed``, ``failed, accepted`` …: how a gate of the lineage stands."""
    state = str(judged.get("state") or ("passed" if judged["passed"] else "failed"))
    return f"{state}, accepted" if judged["accepted"] and not judged["passed"] else state
