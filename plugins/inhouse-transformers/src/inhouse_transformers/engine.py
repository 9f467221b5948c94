"""The runtime and its engine: chat, completion, stream and log-probabilities in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray

from inhouse.errors import DataError, EngineError, RecipeError
from inhouse.values import Completion, Json, Message, Request
from inhouse_transformers import Options
from inhouse_transformers.cache import Kept
from inhouse_transformers.decode import Row, decode
from inhouse_transformers.forward import Forward
from inhouse_transformers.limit import limit
from inhouse_transformers.load import Loaded, load
from inhouse_transformers.memory import give_back
from inhouse_transformers.score import distribution, logprobs

SECONDS = 10.0
"""A chat template that takes longer never ends."""


class TransformersRuntime:
    """Opens folders of safetensors (``model/hf``, ``model/bnb``)."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def open(self, model: Path, *, context: int, threads: int = 0) -> TransformersEngine:
        """Loads ``model``. ``threads`` 0 leaves torch's own choice.

        Raises ``EngineError`` with what transformers said, ``RecipeError`` when ``context`` is longer
        than the model's.
        """
        loaded = load(Path(model), self.options)
        if context > loaded.limit:
            raise RecipeError(
                f"a context of {context} tokens, but the model was made for {loaded.limit}",
                where="target.context",
                hint=f"--set target.context={loaded.limit}",
            )
        return TransformersEngine(loaded, self.options, context=context, threads=threads)


class TransformersEngine:
    """A model held open in this process. One call at a time; others wait."""

    features = frozenset({"logprobs", "distributions", "stream", "tools"})

    def __init__(self, loaded: Loaded, options: Options, *, context: int, threads: int = 0) -> None:
        self.context = context
        self.batch = options.max_batch
        self._loaded: Loaded | None = loaded
        self._tokenizer = loaded.tokenizer
        self._options = options
        self._forward = Forward(loaded)
        self._kept = Kept()
        self._ends = _end_tokens(loaded)
        self._lock = threading.Lock()
        self._threads = torch.get_num_threads()
        if threads > 0:
            torch.set_num_threads(threads)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All answers, in order, decoded ``max_batch`` at a time.

        Greedy answers equal those of one request at a time. ``Completion.seconds`` runs from the start
        of the request's batch to its own last token.
        """
        prompts = [self._prompt(request) for request in requests]
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))  # least padding
        answers: dict[int, Completion] = {}
        with self._working():
            for start in range(0, len(order), self._options.max_batch):
                batch = order[start : start + self._options.max_batch]
                rows = [self._row(prompts[at], requests[at]) for at in batch]
                for _ in decode(self._forward, rows, self._kept):
                    pass
                give_back()
                answers.update(zip(batch, (row.completion() for row in rows), strict=True))
        return [answers[at] for at in range(len(prompts))]

    def stream(self, request: Request) -> Iterator[str]:
        """Pieces of one answer as they are decoded; joined they are what ``generate`` gives."""
        prompt = self._prompt(request)
        with self._working():
            row = self._row(prompt, request)
            for _ in decode(self._forward, [row], self._kept):
                if row.piece:
                    yield row.piece

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, tools: Sequence[Json] = ()
    ) -> str:
        """The text of the model's own chat template, which transformers renders in Jinja's sandbox.

        ``tools`` are JSON schemas of functions; templates that know of none leave them out.

        Raises ``RecipeError`` when the model has no template or its template refuses the messages, ``DataError`` when
        it does not end (time is bounded in the main thread only).
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        if not self._tokenizer.chat_template:
            raise RecipeError("the model has no chat template", hint="use a chat model, or requests with a prompt")
        try:
            with limit(SECONDS):
                text = self._tokenizer.apply_chat_template(
                    turns, tools=list(tools) or None, tokenize=False, add_generation_prompt=add_generation_prompt
                )
        except TimeoutError:
            raise DataError(f"the model's chat template did not end within {SECONDS:g} seconds") from None
        except TemplateError as error:
            raise RecipeError(f"the model's chat template refuses the messages: {error}") from error
        return str(text)

    def tokenize(self, text: str) -> list[int]:
        """Token ids; special tokens in ``text`` are parsed, none is added."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log-probability of ids[i] given ids[:i], for i = 1 … n-1, from float32 logits."""
        self._fitting(sequences)
        with self._working():
            return logprobs(self._forward, sequences, max_batch=self._options.max_batch)

    def distributions(self, sequences: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
        """Logits after ids[:i], i = 1 … n-1, of one sequence after the other: (n-1, vocabulary)."""
        self._fitting(sequences)
        for ids in sequences:
            with self._working():
                found = distribution(self._forward, ids)
            yield found.numpy()

    def _fitting(self, sequences: Sequence[Sequence[int]]) -> None:
        longest = max((len(ids) for ids in sequences), default=0)
        if longest > self.context:
            raise RecipeError(f"a sequence of {longest} tokens exceeds the context of {self.context}")

    def memory(self) -> int:
        """Resident bytes (RSS) of this process, the rest of the program included."""
        return int(psutil.Process().memory_info().rss)

    def close(self) -> None:
        """Frees the model, and gives torch back the threads it had."""
        if self._loaded is None:
            return
        torch.set_num_threads(self._threads)
        self._loaded = None
        self._kept = Kept()
        del self._forward
        give_back()

    def __enter__(self) -> TransformersEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, request: Request) -> list[int]:
        """The prompt's tokens: the rendered chat, or the plain prompt with the tokenizer's own BOS."""
        if request.grammar is not None:
            raise RecipeError("the runtime transformers obeys no grammar", hint="--set runtime.use=llamacpp")
        if request.max_tokens < 1:
            raise RecipeError(f"max_tokens is {request.max_tokens}; it must be at least 1")
        if request.prompt is None:
            ids = self.tokenize(self.render(request.messages))
        else:
            ids = self.tokenize(request.prompt)
            start = list(self._tokenizer("")["input_ids"])[:1]  # what this tokenizer begins every text with
            if start and start == [self._tokenizer.bos_token_id] and ids[:1] != start:
                ids = start + ids
        if not ids:
            raise RecipeError("the prompt is empty")
        if len(ids) >= self.context:
            raise RecipeError(
                f"a prompt of {len(ids)} tokens does not fit the context of {self.context}",
                where="target.context",
                hint="raise target.context or shorten the prompt",
            )
        return ids

    def _row(self, prompt: list[int], request: Request) -> Row:
        limit = min(request.max_tokens, self.context - len(prompt))
        return Row(prompt, request, limit=limit, ends=self._ends, tokenizer=self._tokenizer)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One call at a time, and torch's failures as typed errors."""
        with self._lock:
            if self._loaded is None:
                raise EngineError("the engine is closed")
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                self._kept = Kept()
                raise EngineError(f"torch failed: {error}", hint="lower max_batch or target.context") from error


def _end_tokens(loaded: Loaded) -> frozenset[int]:
    """Every token that ends a turn: the generation config's, the model's and the tokenizer's."""
    ends: set[int] = set()
    for value in (
        getattr(loaded.model.generation_config, "eos_token_id", None),
        loaded.model.config.get_text_config(decoder=True).eos_token_id,
        loaded.tokenizer.eos_token_id,
    ):
        ends.update([] if value is None else [value] if isinstance(value, int) else value)
    return frozenset(ends)
