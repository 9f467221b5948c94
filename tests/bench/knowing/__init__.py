"""The parts of the benchmark of knowledge bases; ``GROUPS`` lists what it measures.

To add one: a module here with ``measure(quick)``, which gives rows, and its name in ``GROUPS``.
"""

from __future__ import annotations

GROUPS = ("xquad", "embedding", "hnsw", "pgvector", "ingest", "growth")
"""Modules here, in the order in which they are measured, the longest last; imported when they are."""
