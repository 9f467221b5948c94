"""From tokens to text, one token at a time: whole characters only, stop strings cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"
"""What tokenizers print for the first bytes of a character whose other bytes are in the next token."""


class TextStream:
    """The text of one answer as its tokens come.

    ``text`` is what was released so far; ``stopped`` says that a stop string was met. Text that may be
    the beginning of a stop string is held back until it is decided. The time per token does not grow
    with the answer: only the tokens since the last whole character are decoded.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.text = ""
        self.stopped = False
        self._held = ""
        self._ids: list[int] = []
        self._start = 0  # tokens from here to _read give the decoder its context (leading spaces)
        self._read = 0

    def push(self, token: int) -> str:
        """Adds one token; returns the text that is now certain."""
        self._ids.append(token)
        return self._release(self._decoded(final=False))

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        piece = self._release(self._decoded(final=True))
        if not self.stopped:
            piece += self._held
            self.text += self._held
            self._held = ""
        return piece

    def _decoded(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        if after.endswith(UNFINISHED) and not final:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _release(self, piece: str) -> str:
        if self.stopped:
            return ""
        held = self._held + piece
        ends = [at for at in (held.find(stop) for stop in self.stops) if at >= 0]
        if ends:
            self.stopped = True
            out, self._held = held[: min(ends)], ""
        else:
            keep = max((_overlap(held, stop) for stop in self.stops), default=0)
            out, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += out
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
