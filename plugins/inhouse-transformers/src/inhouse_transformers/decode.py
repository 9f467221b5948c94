"""Many answers decoded together: what is known is not computed again, the rest is padded, finished rows leave."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache

from inhouse.values import Completion, Request
from inhouse_transformers.cache import STEP, Kept, Known, common, cut, joined
from inhouse_transformers.forward import Forward
from inhouse_transformers.text import TextStream


class Row:
    """One answer in the making.

    ``ids`` is the prompt, ``limit`` the most tokens to make, ``ends`` the tokens that end a turn;
    ``tokens`` what was made, the end included; ``piece`` the text that the last token released.
    """

    def __init__(self, ids: list[int], request: Request, *, limit: int, ends: frozenset[int], tokenizer: Any) -> None:
        self.ids, self.request, self.limit, self.ends = ids, request, limit, ends
        self.tokens: list[int] = []
        self.stream = TextStream(tokenizer, request.stop)
        self.piece = ""
        self.finish: Literal["stop", "length"] | None = None
        self.started = time.perf_counter()
        self.seconds = 0.0
        self._random = torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None

    def choose(self, logits: torch.Tensor, best: int) -> int:
        """The next token: ``best``, or one drawn from ``logits`` (vocabulary,) by the row's own generator."""
        if self._random is None:
            return best
        chances = torch.softmax(logits.cpu() / self.request.temperature, dim=-1)
        return int(torch.multinomial(chances, 1, generator=self._random))

    def take(self, token: int) -> None:
        """Adds a token, and finishes the row if it was the last."""
        self.tokens.append(token)
        if token in self.ends:
            self.finish, self.piece = "stop", self.stream.finish()
        else:
            self.piece = self.stream.push(token)
            if self.stream.stopped:
                self.finish = "stop"
            elif len(self.tokens) == self.limit:
                self.piece += self.stream.finish()
                self.finish = "stop" if self.stream.stopped else "length"
        if self.finish:
            self.seconds = time.perf_counter() - self.started

    def completion(self) -> Completion:
        """The answer; the end-of-turn token is not counted."""
        made = len(self.tokens) - (self.tokens[-1] in self.ends)
        return Completion(self.stream.text, self.finish or "length", len(self.ids), made, self.seconds)


def decode(forward: Forward, rows: Sequence[Row], kept: Kept) -> Iterator[None]:
    """Makes one token for every unfinished row per iteration, until all are finished.

    Rows do not influence each other: the result is that of decoding them one by one, up to rounding.
    """
    prefix, heads = _known(forward, rows, kept)
    # the most to compute first, as `prefill` wants it
    ordered = sorted(zip(rows, heads, strict=True), key=lambda pair: len(pair[0].ids) - pair[1][0], reverse=True)
    going, heads = [row for row, _ in ordered], [head for _, head in ordered]
    cache, mask, logits = _start(forward, going, heads, prefix)
    while True:
        for at, (row, best) in enumerate(zip(going, logits.argmax(-1).tolist(), strict=True)):
            if row.finish is not None:
                continue
            row.take(row.choose(logits[at], best))
            if row.finish is not None and forward.shares:  # the next turn of a conversation begins with this one
                kept.add(cut(cache, at, mask[at], row.ids + row.tokens[:-1], prefix))
        yield
        left = [at for at, row in enumerate(going) if row.finish is None]
        if not left:
            return
        if 4 * len(left) <= 3 * len(going):  # finished rows leave together, since that copies the whole cache
            index = torch.tensor(left, device=forward.device)
            cache.batch_select_indices(index)
            going, mask = [going[at] for at in left], mask[index]
        new = torch.tensor([[row.finish is None] for row in going], dtype=mask.dtype, device=mask.device)
        mask = torch.cat([mask, new], dim=1)
        last = torch.tensor([[row.tokens[-1]] for row in going], device=forward.device)
        logits = forward(last, mask, cache, prefix=prefix)[:, -1]


def _known(forward: Forward, rows: Sequence[Row], kept: Kept) -> tuple[Known | None, list[tuple[int, Known | None]]]:
    """What all rows share, and for each row how many of its tokens need not be computed, and whose they are."""
    if not forward.shares:
        return None, [(0, None)] * len(rows)
    prefix = _prefix(forward, rows, kept)
    shared = len(prefix.ids) if prefix else 0
    found = (kept.best(row.ids[:-1]) for row in rows)  # every row computes its last token itself
    return prefix, [(max(length, shared), known) for length, known in found]


def _start(
    forward: Forward, rows: Sequence[Row], heads: Sequence[tuple[int, Known | None]], prefix: Known | None
) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """The cache and mask (rows, positions) behind ``prefix``, and the last logits (rows, vocabulary)."""
    shared = len(prefix.ids) if prefix else 0
    width = max(length for length, _ in heads) - shared
    longest = max(len(row.ids) - length for row, (length, _) in zip(rows, heads, strict=True))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.ones(len(rows), width + longest, dtype=torch.long)
    for at, (row, (length, _)) in enumerate(zip(rows, heads, strict=True)):
        padding = longest - (len(row.ids) - length)
        ids[at, padding:] = torch.tensor(row.ids[length:])
        mask[at, : width - (length - shared)] = 0
        mask[at, width : width + padding] = 0
    cache = joined(heads, longest + STEP, shared) if width else forward.cache()
    mask = mask.to(forward.device)
    return cache, mask, forward.prefill(ids.to(forward.device), mask, cache, prefix=prefix)


def _prefix(forward: Forward, rows: Sequence[Row], kept: Kept) -> Known | None:
    """What all rows begin with, if that is worth sharing; computes what ``kept`` does not know of it."""
    if len(rows) == 1:
        return None
    shared = reduce(min, (common(rows[0].ids, row.ids) for row in rows[1:]))
    ids = rows[0].ids[: min(shared, *(len(row.ids) - 1 for row in rows))]
    length, known = kept.best(ids)
    if len(ids) - length >= STEP:
        cache = joined([(length, known)], len(ids) - length) if known else forward.cache()
        mask = torch.ones(1, len(ids), dtype=torch.long, device=forward.device)
        forward.prefill(torch.tensor([ids[length:]], device=forward.device), mask, cache)
        known = cut(cache, 0, mask[0], ids)
        kept.add(known)
        length = len(ids)
    prefix = known.beginning(length) if known else None
    return prefix if prefix and len(prefix.ids) >= STEP else None
