"""The child process that holds a model: ``python -P -m inhouse_llamacpp.worker``.

JSON lines. The first line on stdin says what to load; the answer is {"ready": {...}} or {"error": {...}}.
Then each line is {"id", "op", ...}; answers are {"id", "result"} or {"id", "error"}, with {"id", "piece"} before
them for a stream. Lines without id are signs of life. Calls run side by side in one scheduler.
When stdin ends or the parent is gone, so is this process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define

from inhouse.errors import DataError, EngineError, InhouseError, RecipeError
from inhouse_llamacpp.chat import Prompts
from inhouse_llamacpp.job import Job
from inhouse_llamacpp.native import Context, Grammar, Model, Row, start, take_errors
from inhouse_llamacpp.sampler import Sampler
from inhouse_llamacpp.scan import scan
from inhouse_llamacpp.scheduler import Scheduler
from inhouse_llamacpp.text import TextStream

LIFE_SIGN = 2.0
"""Seconds between signs of life while working."""

WARM_UP = 40
"""Tokens of the first decode: enough for the code that multiplies matrices by matrices."""


class Mouth:
    """Writes answers, one JSON object a line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._last = 0.0

    def say(self, **message: Any) -> None:
        """Sends one message."""
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()
        self._last = time.monotonic()

    def alive(self) -> None:
        """Sends a sign of life when there was nothing to say for a while."""
        if time.monotonic() - self._last > LIFE_SIGN:
            self.say(alive=True)


@define
class Call:
    """One call of the parent and the jobs that answer it."""

    number: int
    jobs: list[Job]
    stream: bool


class Server:
    """Answers calls with one loaded model."""

    def __init__(self, setup: Mapping[str, Any], mouth: Mouth) -> None:
        self.mouth = mouth
        scan(Path(setup["model"]))
        self.model = Model(setup["model"], repack=setup["repack"], progress=lambda done: mouth.alive())
        if setup["context"] > self.model.trained_context:
            raise RecipeError(
                f"a context of {setup['context']} tokens is longer than the model's {self.model.trained_context}",
                hint=f"target.context = {self.model.trained_context}",
            )
        warm_up(self.model, setup["threads"], setup["cache_type"])
        self.prompts = Prompts(self.model, setup["context"])
        self.scheduler = Scheduler(
            self.model,
            context=setup["context"],
            slots=setup["slots"],
            cache_memory=setup["cache_memory"],
            cache_type=setup["cache_type"],
            threads=setup["threads"],
        )
        self.calls: list[Call] = []
        self.scores: list[tuple[int, Callable[[], Any]]] = []

    def handle(self, message: Mapping[str, Any]) -> None:
        """Starts one call; quick ones are answered at once."""
        number, op = message["id"], message["op"]
        try:
            if op in ("generate", "stream"):
                self._generate(number, message["requests"], stream=op == "stream")
            elif op == "logprobs":
                self._scoring(number, message["sequences"], self.scheduler.score)
            elif op == "distribution":
                self._scoring(number, [message["sequence"]], partial(self._write_distribution, message["file"]))
            elif op == "cancel":
                self._cancel(message["call"])
            elif op == "render":
                text = self.prompts.render(message["messages"], message["add_generation_prompt"], message["tools"])
                self.mouth.say(id=number, result=text)
            elif op == "tokenize":
                self.mouth.say(id=number, result=self.model.tokenize(message["text"]))
            elif op == "statistics":
                self.mouth.say(id=number, result=self.scheduler.statistics())
            else:
                raise EngineError(f"the engine knows no operation {op!r}")
        except InhouseError as error:
            self.mouth.say(id=number, error=as_data(error))
        except Exception as error:  # one strange request must not end the engine for the others
            self.mouth.say(id=number, error=as_data(_unforeseen(error)))

    def work(self) -> bool:
        """One step of whatever is under way; False when there is nothing."""
        self.mouth.alive()
        if self.scheduler.busy:
            try:
                self.scheduler.step()
            except Exception as error:  # whatever it is, the jobs under way are lost and the engine goes on
                for job in self.scheduler.reset():
                    job.error = _unforeseen(error)
                    job.finish = "length"
            self._answer()
            return True
        if self.scores:
            number, score = self.scores.pop(0)
            try:
                self.mouth.say(id=number, result=score())
            except Exception as error:
                self.mouth.say(id=number, error=as_data(_unforeseen(error)))
            return True
        return False

    def _generate(self, number: int, requests: list[Mapping[str, Any]], *, stream: bool) -> None:
        jobs: list[Job] = []
        try:
            for request in requests:
                jobs.append(self._job(number, request, stream))
        except InhouseError:
            for job in jobs:
                job.sampler.close()
            raise
        self.calls.append(Call(number, jobs, stream))
        self.scheduler.submit(jobs)
        if not jobs:
            self._answer()

    def _job(self, number: int, request: Mapping[str, Any], stream: bool) -> Job:
        prompt = self.prompts.tokens(request)
        grammar = Grammar(self.model, request["grammar"]) if request["grammar"] else None
        return Job(
            prompt,
            limit=max(1, min(request["max_tokens"], self.scheduler.context - len(prompt))),
            text=TextStream(request["stop"]),
            sampler=Sampler(request["temperature"], request["seed"], grammar),
            emit=(lambda text: self.mouth.say(id=number, piece=text)) if stream else None,
        )

    def _scoring(self, number: int, sequences: list[list[int]], score: Callable[..., Any]) -> None:
        """Puts sequences in the queue of those to score; ``score`` takes them and a sign of life."""
        longest = max((len(each) for each in sequences), default=0)
        if longest > self.scheduler.context:
            raise RecipeError(f"a sequence to score has {longest} tokens, the context only {self.scheduler.context}")
        if any(not 0 <= token < self.model.tokens for each in sequences for token in each):
            raise RecipeError(f"token ids to score must be 0 to {self.model.tokens - 1}")
        self.scores.append((number, partial(score, sequences, self.mouth.alive)))

    def _write_distribution(self, path: str, sequences: list[list[int]], tick: Callable[[], None]) -> int:
        self.scheduler.write_distribution(sequences[0], path, tick)
        return self.model.tokens

    def _answer(self) -> None:
        """Answers the calls whose jobs have all ended."""
        for call in list(self.calls):
            if any(job.finish is None for job in call.jobs):
                continue
            self.calls.remove(call)
            failed = next((job.error for job in call.jobs if job.error is not None), None)
            if failed is not None:
                self.mouth.say(id=call.number, error=as_data(failed))
            else:
                self.mouth.say(id=call.number, result=[job.result() for job in call.jobs])

    def _cancel(self, number: int) -> None:
        for call in self.calls:
            if call.number == number:
                self.scheduler.cancel(call.jobs)
        self._answer()


def warm_up(model: Model, threads: int, cache_type: str) -> None:
    """Decodes once in both ways, many tokens and one: a build that crashes on this CPU crashes now."""
    context = Context(model, cells=256, sequences=1, threads=threads, cache_type=cache_type)
    token = max(model.bos, 0)
    context.decode([Row(token, i, 0, i == WARM_UP - 1) for i in range(WARM_UP)])
    context.decode([Row(token, WARM_UP, 0, True)])
    context.close()
    take_errors()


def _unforeseen(error: Exception) -> InhouseError:
    return error if isinstance(error, InhouseError) else EngineError(f"{type(error).__name__}: {error}")


def as_data(error: InhouseError) -> dict[str, Any]:
    """An error as the parent rebuilds it."""
    kinds = {RecipeError: "recipe", DataError: "data"}
    kind = next((name for each, name in kinds.items() if isinstance(error, each)), "engine")
    return {"kind": kind, "message": error.message, "where": error.where, "hint": error.hint}


def listen(messages: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Reads calls until stdin ends, then ends the process, whatever it is doing."""
    for line in sys.stdin:
        messages.put(json.loads(line))
    os._exit(0)


def watch(parent: int) -> None:
    """Ends the process when its parent is gone, for the case that somebody else holds stdin open."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def serve(server: Server, messages: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Handles calls as they come, between the steps of those under way."""
    idle = True
    while True:
        try:
            while True:
                server.handle(messages.get(block=idle))
                idle = False
        except queue.Empty:
            pass
        idle = not server.work()


def main() -> None:
    """Keeps stdout for the protocol (native code prints there too), loads, serves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    mouth = Mouth(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(messages,), daemon=True).start()
    if os.name == "posix":
        threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    start()
    try:
        server = Server(setup, mouth)
    except InhouseError as error:
        mouth.say(error=as_data(error))
        return
    mouth.say(ready={"context": setup["context"]})
    serve(server, messages)


if __name__ == "__main__":
    main()
