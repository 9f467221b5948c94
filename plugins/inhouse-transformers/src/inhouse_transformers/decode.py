"""Many answers decoded together: the common prefix once, the rest padded, finished rows dropped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache

from inhouse.protocols import Completion, Request
from inhouse_transformers.cache import Prefix, common
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


def decode(forward: Forward, rows: Sequence[Row], prefix: Prefix) -> Iterator[None]:
    """Makes one token for every unfinished row per iteration, until all are finished.

    Rows do not influence each other: the result is that of decoding them one by one, up to rounding.
    """
    going = list(rows)
    cache, mask, logits = _start(forward, going, prefix)
    while True:
        for row, scores, best in zip(going, logits, logits.argmax(-1).tolist(), strict=True):
            row.take(row.choose(scores, best))
        yield
        left = [at for at, row in enumerate(going) if row.finish is None]
        if not left:
            break
        if len(left) < len(going):
            index = torch.tensor(left, device=forward.device)
            cache.batch_select_indices(index)
            going, mask = [going[at] for at in left], mask[index]
        mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
        last = torch.tensor([[row.tokens[-1]] for row in going], device=forward.device)
        logits = forward(last, mask, cache)[:, -1]
    if len(rows) == 1 and forward.plain:  # the next turn of a conversation begins with this one
        prefix.keep(rows[0].ids + rows[0].tokens[:-1], cache)


def _start(forward: Forward, rows: Sequence[Row], prefix: Prefix) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """The cache, mask (rows, positions) and last logits (rows, vocabulary) after all prompts."""
    shared, cache = 0, forward.cache()
    if forward.plain:
        shared = reduce(min, (common(rows[0].ids, row.ids) for row in rows))
        shared = min(shared, *(len(row.ids) - 1 for row in rows))  # every row computes its last token itself
        if shared > 0:
            _extend(forward, rows[0].ids[:shared], prefix)
            cache = prefix.head(shared, len(rows))
    longest = max(len(row.ids) for row in rows) - shared
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.ones(len(rows), shared + longest, dtype=torch.long)
    for at, row in enumerate(rows):
        padding = longest - (len(row.ids) - shared)
        ids[at, padding:] = torch.tensor(row.ids[shared:])
        mask[at, shared : shared + padding] = 0
    mask = mask.to(forward.device)
    return cache, mask, forward.prefill(ids.to(forward.device), mask, cache)


def _extend(forward: Forward, ids: list[int], prefix: Prefix) -> None:
    """Lets ``prefix`` hold the states of ``ids``, computing only those it does not have."""
    kept = prefix.match(ids)
    if kept == len(ids):
        return
    cache = prefix.head(kept, 1) if kept else forward.cache()
    new = torch.tensor([ids[kept:]], device=forward.device)
    forward.prefill(new, torch.ones(1, len(ids), dtype=torch.long, device=forward.device), cache)
    prefix.keep(ids, cache)
