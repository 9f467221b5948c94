"""From bytes of tokens to text: whole UTF-8 characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Collects one answer. ``text`` is what is certain so far; ``stopped`` says that a stop string came.

    The longest end of the text that may still grow into a stop string is held back.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.text = ""
        self.stopped = False
        self._stop = [each for each in stop if each]
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, piece: bytes) -> str:
        """Takes the bytes of one token; returns the text that became certain."""
        self._held += self._decoder.decode(piece)
        places = [(self._held.find(each), each) for each in self._stop]
        found = min((place for place, _ in places if place >= 0), default=-1)
        if found >= 0:
            self.stopped = True
            return self._release(found)
        return self._release(len(self._held) - self._may_be_stop())

    def finish(self) -> str:
        """Ends the answer; returns what was held back. A character cut in the middle is dropped."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, length: int) -> str:
        sure = self._held[:length]
        self._held = "" if self.stopped else self._held[length:]
        self.text += sure
        return sure

    def _may_be_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max((len(each) for each in self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(each.startswith(tail) for each in self._stop):
                return length
        return 0
