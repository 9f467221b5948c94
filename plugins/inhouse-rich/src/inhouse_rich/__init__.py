"""Shows a run on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

from inhouse import hookimpl
from inhouse.bus import Bus


@hookimpl
def inhouse_subscribers(bus: Bus, terminal: bool) -> None:
    """Subscribes the display that fits. No ``terminal`` on a standard error that is one: asked to be quiet."""
    from rich.console import Console

    from inhouse_rich.live import LiveDisplay
    from inhouse_rich.plain import PlainLines

    if terminal:
        LiveDisplay(Console(stderr=True, highlight=False)).attach(bus)
    else:
        lines = Console(stderr=True, highlight=False, force_terminal=False, width=120)
        PlainLines(lines).attach(bus, quiet=sys.stderr.isatty())
