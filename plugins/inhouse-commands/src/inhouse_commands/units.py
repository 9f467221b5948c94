"""Quantities as people read them."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """``105.4 MB``: decimal units, as disks and downloads are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
