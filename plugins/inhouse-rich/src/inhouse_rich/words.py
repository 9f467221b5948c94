"""Numbers and text for people. Text may come from a model or a document: no control characters."""

from __future__ import annotations


def clean(text: str) -> str:
    """Printable characters and line ends only: no escape sequences reach the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def size(count: float) -> str:
    """``92.4 MB``, ``105 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 100 or unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def duration(seconds: float) -> str:
    """``8.4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def amount(done: float, total: float, unit: str) -> str:
    """``118 of 320 steps``; ``12.0 MB of 105.4 MB``."""
    if unit == "B":
        return f"{size(done)} of {size(total)}" if total > 0 else size(done)
    many = unit if unit.endswith("s") else f"{unit}s"
    return f"{done:,.0f} of {total:,.0f} {many}" if total > 0 else f"{done:,.0f} {many}"


def rate(speed: float, unit: str) -> str:
    """``2.1/s``; per minute when it is slow."""
    if unit == "B":
        return f"{size(speed)}/s"
    return f"{speed:.1f}/s" if speed >= 1 else f"{speed * 60:.1f}/min"
