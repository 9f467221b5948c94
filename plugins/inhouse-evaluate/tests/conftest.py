"""A scripted engine with a real chat template's shape, and the step and services around it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inhouse.protocols import ToolContext
from inhouse.values import Artifact, Completion, Message, Passage, Request, Target
from inhouse_react import ReactOptions
from inhouse_react.agent import React
from inhouse_tools import ParameterOptions, SearchOptions, SqliteOptions
from inhouse_tools.calculator import Calculator
from inhouse_tools.knowledge import SearchKnowledge
from inhouse_tools.sqlite import SqliteLookup

ARTICLE = Passage("returns-window", 0, "Returns", "Within 30 days.", 0, 15, 0.9)
_PIECE = re.compile(r"<\|\w+\|>|\w+|\s|.", re.DOTALL)


class ScriptedEngine:
    """ChatML, one token a word; says what ``brain`` says, and finds every token equally likely."""

    batch = 16
    context = 512

    def __init__(self, brain: Callable[[Request], str], features: frozenset[str] = frozenset({"logprobs"})) -> None:
        self.brain = brain
        self.features = features
        self.words: list[str] = []
        self.batches: list[int] = []
        self.requests: list[Request] = []
        self.closed = False

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.batches.append(len(requests))
        self.requests += requests
        texts = [self.brain(request) for request in requests]
        return [Completion(text, "stop", 10, len(text.split()), 0.01) for text in texts]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        turns = "".join(f"<|im_start|>{each.role}\n{each.content}<|im_end|>\n" for each in messages)
        return turns + ("<|im_start|>assistant\n" if add_generation_prompt else "")

    def tokenize(self, text: str) -> list[int]:
        pieces = _PIECE.findall(text)
        self.words += [piece for piece in dict.fromkeys(pieces) if piece not in self.words]
        return [self.words.index(piece) for piece in pieces]

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-float(token) for token in ids[1:]] for ids in sequences]

    def memory(self) -> int:
        return 123_456_789

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> "ScriptedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Base:
    """Finds the one article."""

    def search(self, query: str, k: int = 5, *, where: Mapping[str, Any] | None = None) -> list[Passage]:
        return [ARTICLE]

    def close(self) -> None: ...


def able(request: Request) -> str:  # noqa: PLR0911
    """A model that solves all tasks of :func:`desk`."""
    if request.prompt is not None:
        return "11, 12, 13"
    last, before = request.messages[-1].content, [message.content for message in request.messages]
    if last.startswith("Observation: item"):
        total = "lamp" in last and any("total" in text for text in before)
        return (
            'Thought: Sum.\nAction: calculator {"expression": "2 * 89.5"}'
            if total
            else "Thought: Seen.\nFinal: It was shipped on 3 May."
        )
    if last.startswith("Observation: [returns-window]"):
        return "Thought: Found.\nFinal: Within 30 days [returns-window]."
    if last.startswith("Observation: "):
        return f"Thought: Done.\nFinal: In all {last.removeprefix('Observation: ')} dollars."
    if "48213" in last:
        return 'Thought: Look up.\nAction: orders {"order_id": "48213"}'
    if "return" in last:
        return 'Thought: Search.\nAction: search_knowledge {"query": "return"}'
    return 'Thought: Not ours.\nAction: hand_over {"reason": "unrelated"}'


def unable(request: Request) -> str:
    """A model that talks."""
    return "I am a helpful assistant." if request.prompt is None else ""


TASKS: list[dict[str, Any]] = [
    {"id": "a", "kind": "order", "question": "Where is 48213?", "answer": [["shipped"], ["May 3", "3 May"]],
     "calls": [{"tool": "orders", "arguments": {"order_id": "48213"}}]},
    {"id": "b", "kind": "order+calculation", "question": "What is the total of 48213?", "answer": [["179"]],
     "calls": [{"tool": "orders", "arguments": {"order_id": "48213"}}, {"tool": "calculator", "value": "179.0"}]},
    {"id": "c", "kind": "policy", "question": "Until when can I return it?", "answer": [["30 days"]],
     "calls": [{"tool": "search_knowledge", "finds": "returns-window"}], "cites": ["returns-window"]},
    {"id": "d", "kind": "hand_over", "question": "Sue them!", "hand_over": True},
]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> SimpleNamespace:
    """Tasks, examples, chat data, and an agent with the real tools."""
    with closing(sqlite3.connect(tmp_path / "orders.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE orders (id TEXT, item TEXT, price REAL, status TEXT)")
        connection.execute("INSERT INTO orders VALUES ('48213', 'lamp', 89.5, 'shipped on 3 May')")
    (tmp_path / "system.txt").write_text("search_knowledge calculator orders hand_over")
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, TASKS)) + "\n")
    example = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Thought: a\nFinal: b"}]
    }
    (tmp_path / "few_shot.jsonl").write_text(json.dumps(example))
    chat = tmp_path / "chat"
    chat.mkdir()
    (chat / "heldout.jsonl").write_text("\n".join([json.dumps(example)] * 3))
    options = SqliteOptions(
        tmp_path / "orders.sqlite",
        "SELECT item, price, status FROM orders WHERE id = :order_id",
        "Finds an order.",
        {"order_id": ParameterOptions(pattern="[0-9]{5}")},
    )
    orders = SqliteLookup(options, ToolContext("orders"))
    tools = {
        "search_knowledge": SearchKnowledge(SearchOptions(1), ToolContext("search_knowledge", Base())),
        "calculator": Calculator(None, ToolContext("calculator")),
        "orders": orders,
    }
    made = SimpleNamespace(
        folder=tmp_path,
        agent=React(ReactOptions(tmp_path / "system.txt"), tools),
        chat=Artifact("text/chat", chat, "c" * 64, "data", "source"),
    )
    yield made
    orders.close()


class RecordingStep:
    """A step that keeps what it is told, and opens the engines it was given."""

    def __init__(self, folder: Path, agent: React, engines: Mapping[str, Callable[[], ScriptedEngine]]) -> None:
        self.name = "evaluate"
        self.output = folder / "output"
        self.checkpoints = folder / "checkpoints"
        self.output.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self.facts: dict[str, Any] = {}
        self.notices: list[tuple[str, str]] = []
        self.progressed: list[tuple[float, float]] = []
        self.opened: list[str] = []
        self.contexts: list[int | None] = []
        self.target = Target(context=512)
        self._agent = agent
        self._engines = engines

    @property
    def services(self) -> "RecordingStep":
        return self

    def agent(self, knowledge: Artifact | None) -> React:
        return self._agent

    def engine(self, model: Artifact, *, context: int | None = None) -> ScriptedEngine:
        self.opened.append(model.step)
        self.contexts.append(context)
        return self._engines[model.step]()

    def runtime_name(self, kind: str) -> str:
        return f"runtime of {kind}"

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        self.progressed.append((done, total))

    def notice(self, message: str, *, level: str = "info") -> None:
        self.notices.append((level, message))

    def note(self, **facts: Any) -> None:
        self.facts |= facts


@pytest.fixture
def kit() -> SimpleNamespace:
    """The parts above, since test modules cannot import this file."""
    return SimpleNamespace(Engine=ScriptedEngine, Step=RecordingStep, able=able, unable=unable)
