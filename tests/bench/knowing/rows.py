"""Rows whose goal is a figure and no ratio, and the statistics behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log

import numpy as np
from training.measure import Row


def at_least(work: str, against: str, ours: float, peer: float, limit: float, *, unit: str = "") -> Row:
    """``ours`` has to be ``limit`` or more, whatever ``peer`` is."""
    return Row(work, against, ours, peer, _ratio(ours, peer), unit, f">= {limit:g} {unit}".rstrip(), ours >= limit)


def under(work: str, against: str, ours: float, peer: float, limit: float, *, unit: str = "") -> Row:
    """``ours`` has to be less than ``limit``."""
    return Row(work, against, ours, peer, _ratio(ours, peer), unit, f"< {limit:g} {unit}".rstrip(), ours < limit)


def not_below(work: str, against: str, ours: float, peer: float) -> Row:
    """``ours`` has to be ``peer`` or more."""
    return Row(work, against, ours, peer, _ratio(ours, peer), "", ">= peer", ours >= peer)


def told(work: str, against: str, ours: float, peer: float, *, unit: str = "") -> Row:
    """A row without a goal."""
    return Row(work, against, ours, peer, _ratio(ours, peer), unit, "", True)


def _ratio(ours: float, peer: float) -> float:
    return ours / peer if peer else 0.0


def exponent(counts: Iterable[float], values: Iterable[float]) -> float:
    """The b of ``value = a * count ** b`` by least squares over the logarithms: 1 is linear, 0 does not grow."""
    slope, _ = np.polyfit([log(each) for each in counts], [log(each) for each in values], 1)
    return float(slope)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` per cent of ``values`` do not exceed."""
    return float(np.percentile(values, share))
