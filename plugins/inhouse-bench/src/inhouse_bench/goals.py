"""What a 7B model at 4 bits has to hold to, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

SIZES: Mapping[str, int] = {"q4_k_s": 4_000_000_000, "q4_k_m": 4_100_000_000}
"""Bytes that the file of a type has to be below."""

FASTER = 2.7
"""Decoding rate over that of the F16 file, at least."""

MEMORY = 1.15
"""Resident memory over the file's bytes, at most: a repacked copy beside the mapped file would be more."""


@frozen
class Figures:
    """Of one model. ``plain_rate``: tokens per second of F16 in the turns between this one's.
    ``memory``: resident bytes of the process that holds it, with a full context; None for F16."""

    type: str
    bytes: int
    tokens_per_second: float
    plain_rate: float
    memory: int | None = None


@frozen
class Row:
    """One thing that was measured; ``met`` is None where there is no goal."""

    type: str
    what: str
    measured: str
    goal: str = ""
    met: bool | None = None

    def line(self) -> tuple[str, ...]:
        """A row of the table."""
        return (self.type, self.what, self.measured, self.goal, {True: "yes", False: "no", None: ""}[self.met])


def judge(models: Sequence[Figures]) -> list[Row]:
    """The rows of all ``models``; the first is F16."""
    plain, *quantised = models
    rows = [
        Row(plain.type, "file", _size(plain.bytes)),
        Row(plain.type, "decoding", f"{plain.tokens_per_second:.2f} tokens/s"),
    ]
    for each in quantised:
        limit = SIZES.get(each.type)
        goal, met = (f"below {_size(limit)}", each.bytes < limit) if limit else ("", None)
        rows.append(Row(each.type, "file", _size(each.bytes), goal, met))
        times = each.tokens_per_second / each.plain_rate
        shown = f"{each.tokens_per_second:.2f} tokens/s, {times:.2f} times F16's {each.plain_rate:.2f}"
        rows.append(Row(each.type, "decoding", shown, f"at least {FASTER} times", times >= FASTER))
        if each.memory is not None:
            share = each.memory / each.bytes
            shown = f"{_size(each.memory)}, {share:.3f} times the file"
            rows.append(Row(each.type, "memory", shown, f"at most {MEMORY} times", share <= MEMORY))
    return rows


def _size(count: int) -> str:
    return f"{count / 1e9:.3f} GB"
