"""How sure a share of solved tasks is, and whether two models differ."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist

from inhouse.values import Json


def wilson(solved: int, total: int, confidence: float) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927): honest also near 0 and 1, unlike the normal one."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = solved / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if solved == 0 else max(0.0, middle - half)
    high = 1.0 if solved == total else min(1.0, middle + half)
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: the chance of so uneven a split of the tasks one of two solved."""
    total = only_first + only_second
    fewer = min(only_first, only_second)
    tail = float(sum(comb(total, k) for k in range(fewer + 1)) / 2**total)
    return min(1.0, 2 * tail)


def paired(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Json]:
    """Counts of a paired comparison on the same tasks, and McNemar's p."""
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    return {
        "both": sum(a and b for a, b in pairs),
        "only_first": only_first,
        "only_second": only_second,
        "neither": sum(not a and not b for a, b in pairs),
        "p": mcnemar(only_first, only_second),
    }
