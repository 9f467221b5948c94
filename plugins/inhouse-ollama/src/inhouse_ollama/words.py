"""Text of a server and sizes, as people may see them."""

from __future__ import annotations


def shown(value: object, longest: int = 300) -> str:
    """One line, printable, of at most ``longest`` characters: what a server says may hold anything."""
    text = str(value)[: 4 * longest]
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def size(count: int) -> str:
    """``4.08 GB``: decimal, as disks are sold."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
