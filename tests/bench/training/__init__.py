"""The parts of the training benchmark; ``GROUPS`` lists what it measures.

To add works: a module here with a ``GROUP`` (:class:`~training.measure.Works`) of its own, and its name in ``GROUPS``.
"""

from __future__ import annotations

GROUPS = ("lora", "pretrain", "loss")
"""Modules here that have a ``GROUP``, in the order in which they are measured; imported when they are."""
