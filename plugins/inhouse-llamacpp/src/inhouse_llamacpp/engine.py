"""The Engine of a model that a child process holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from inhouse.errors import EngineError
from inhouse.values import Completion, Json, Message, Request
from inhouse_llamacpp.process import Worker, resident_memory

if TYPE_CHECKING:  # the parent stays light: numpy is imported where it is asked for distributions
    import numpy as np
    from numpy.typing import NDArray


class LlamaCppEngine:
    """A loaded model; see ``inhouse.protocols.Engine``. May be used from several threads at once: what they ask
    for is decoded together. ``told`` says which settings it runs with and why, where they are not the usual ones.
    Raises ``EngineError`` with what the engine said when the child died."""

    def __init__(self, worker: Worker, *, context: int, batch: int, told: str = "") -> None:
        self._worker = worker
        self._closed = False
        self.context = context
        self.batch = batch
        self.told = told
        self.features = frozenset({"grammar", "logprobs", "distributions", "stream", "tools"})

    @property
    def pid(self) -> int:
        """Of the process that holds the model."""
        return self._worker.pid

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All answers, in order; decoded together, common prefixes once."""
        answers = self._call("generate", requests=[_plain(each) for each in requests])
        return [Completion(**each) for each in answers]

    def stream(self, request: Request) -> Iterator[str]:
        """Pieces of one answer. Closing the iterator stops the generation."""
        self._check_open()
        yield from self._worker.stream("stream", requests=[_plain(request)])

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, tools: Sequence[Json] = ()
    ) -> str:
        """The text that the model's template makes. ``tools`` are JSON schemas of functions."""
        plain = [{"role": each.role, "content": each.content} for each in messages]
        asked = {"messages": plain, "add_generation_prompt": add_generation_prompt, "tools": list(tools)}
        return str(self._call("render", **asked))

    def tokenize(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are parsed, none is added."""
        return list(self._call("tokenize", text=text))

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log-probability of ids[i] given ids[:i], i = 1 … n-1."""
        return list(self._call("logprobs", sequences=[[int(token) for token in each] for each in sequences]))

    def distributions(self, sequences: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
        """Logits after ids[:i], i = 1 … n-1, of one sequence after the other: (n-1, vocabulary).

        The child hands them over in a file of the system's temporary folder.
        """
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            for ids in sequences:
                path = Path(folder) / "logits.f32"
                width = self._call("distribution", sequence=[int(token) for token in ids], file=str(path))
                yield np.fromfile(path, np.float32).reshape(-1, width)

    def memory(self) -> int:
        """Bytes that the child holds now (PSS on Linux)."""
        self._check_open()
        return resident_memory(self._worker.pid)

    def statistics(self) -> dict[str, int]:
        """``decoded_tokens`` since the engine was opened (what was taken over from the cache is not decoded),
        ``cells`` of the key/value cache, and ``used_cells``."""
        return dict(self._call("statistics"))

    def close(self) -> None:
        """Ends the child. May be called twice."""
        if not self._closed:
            self._closed = True
            self._worker.close()

    def __enter__(self) -> LlamaCppEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, op: str, **arguments: Any) -> Any:
        self._check_open()
        return self._worker.call(op, **arguments)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")


def _plain(request: Request) -> dict[str, Any]:
    """A request as JSON."""
    return {
        "messages": [{"role": each.role, "content": each.content} for each in request.messages],
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "grammar": request.grammar,
        "temperature": request.temperature,
        "seed": request.seed,
    }
