"""The parts of the quantising benchmark; ``GROUPS`` lists what it measures.

To add one: a module here with ``measure(quick)``, which gives rows, and its name in ``GROUPS``.
"""

from __future__ import annotations

GROUPS = ("imatrix", "perplexity", "merge", "conversion", "aware")
"""Modules here, in the order in which they are measured, the longest last; imported when they are."""
