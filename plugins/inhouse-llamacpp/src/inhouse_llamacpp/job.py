"""One request on its way through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from inhouse.errors import InhouseError
from inhouse_llamacpp.cache import Slot
from inhouse_llamacpp.native import Model
from inhouse_llamacpp.sampler import Sampler
from inhouse_llamacpp.text import TextStream


class Job:
    """A prompt, what has been generated of its answer, and where it stands.

    ``source`` and ``shared``: the slot whose first ``shared`` tokens are to be taken over before the rest of the
    prompt is decoded. ``emit`` is given each piece of text that became certain.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        limit: int,
        text: TextStream,
        sampler: Sampler,
        emit: Callable[[str], None] | None = None,
    ) -> None:
        self.prompt = prompt
        self.limit = limit
        self.text = text
        self.sampler = sampler
        self.emit = emit
        self.slot: Slot | None = None
        self.source: Slot | None = None
        self.shared = 0
        self.generated: list[int] = []
        self.finish: str | None = None
        self.error: InhouseError | None = None
        self.began = time.monotonic()
        self.seconds = 0.0

    @property
    def waits(self) -> bool:
        """Whether the prefix it takes over is not decoded yet."""
        return self.source is not None

    def to_decode(self) -> list[int]:
        """Tokens that are known and not in the cache yet: the rest of the prompt, then the last choice."""
        assert self.slot is not None
        done = len(self.slot.tokens)
        return self.prompt[done:] if done < len(self.prompt) else self.generated[done - len(self.prompt) :]

    def still_needs(self) -> int:
        """Cells it may take beyond those its slot has now."""
        have = self.shared if self.waits or self.slot is None else len(self.slot.tokens)
        return len(self.prompt) + self.limit - have

    def take(self, token: int, model: Model) -> None:
        """Notes the chosen token, and whether the answer ends with it."""
        self.generated.append(token)
        if model.ends(token):
            self.end("stop")
            return
        self._say(self.text.feed(model.piece(token)))
        if self.text.stopped:
            self.end("stop")
        elif len(self.generated) >= self.limit:
            self.end("length")

    def end(self, finish: str) -> None:
        """Ends the answer."""
        self._say(self.text.finish())
        self.finish = finish
        self.seconds = time.monotonic() - self.began
        self.sampler.close()

    def fail(self, error: InhouseError) -> None:
        """Ends the answer with an error."""
        self.error = error
        self.end("length")

    def _say(self, text: str) -> None:
        if text and self.emit is not None:
            self.emit(text)

    def result(self) -> dict[str, Any]:
        """A ``Completion`` as plain data; ``completion_tokens`` counts the token that ended the turn too."""
        return {
            "text": self.text.text,
            "finish": self.finish,
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(self.generated),
            "seconds": self.seconds,
        }
