"""The parts of the quantising benchmark; ``GROUPS`` lists what it measures.

To add one: a module here with ``measure(quick)``, which gives rows, and its name in ``GROUPS``.
"""

from __future__ import annotations

GROUPS = ("aware",)
"""Modules here, in the order in which they are measured; imported when they are."""
