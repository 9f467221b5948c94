"""The values that pass between the kernel and the backends."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

Json: TypeAlias = Any
"""What ``json.loads`` returns."""


def is_metadata(value: Json) -> bool:
    """Whether a document's metadata may hold it: a string, true or false, a finite number of at most 64 bits, or a list
    of those."""
    if isinstance(value, list):
        return all(is_metadata(each) and not isinstance(each, list) for each in value)
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 63)


@frozen
class Artifact:
    """A committed, immutable folder.

    ``kind`` is e.g. ``model/hf``; ``path`` the folder; ``digest`` the SHA-256 over its files; ``step``
    and ``stage`` say which step of the present plan gives it; ``meta`` is what the backend noted in
    ``step.note``.
    """

    kind: str
    path: Path
    digest: str
    step: str = ""
    stage: str = ""
    meta: Mapping[str, Json] = field(factory=dict)


@frozen
class Target:
    """The machine that will answer. ``memory`` and ``disk`` in bytes, ``context`` in tokens, ``threads`` 0 = all cores.

    ``speed`` is the least tokens per second of one answer, ``disk`` the most that it has for model and knowledge base;
    0 = any.
    """

    memory: int = 4 << 30
    context: int = 2048
    threads: int = 0
    speed: int = 0
    disk: int = 0


@frozen
class StepRecord:
    """One earlier step of the run, for reports and lineage.

    ``made_seconds`` is what it took when it was not cached; ``products`` are digests by kind; ``meta`` is
    what the backend noted.
    """

    name: str
    stage: str
    backend: str
    seconds: float
    cached: bool
    made_seconds: float
    peak_memory_bytes: int
    plugin: str = ""
    fingerprint: str = ""
    options: Mapping[str, Json] = field(factory=dict)
    products: Mapping[str, str] = field(factory=dict)
    meta: Mapping[str, Json] = field(factory=dict)


@frozen
class Message:
    """One turn. ``role`` is system, user or assistant."""

    role: str
    content: str


@frozen
class Request:
    """What to generate: a chat (through the model's own template) or, with ``prompt``, plain text.

    Greedy when ``temperature`` is 0. ``stop`` strings end the text and are not part of it. ``grammar``
    is GBNF (llama.cpp), obeyed by engines with the feature ``grammar`` and refused by others.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    temperature: float = 0.0
    seed: int = 0


@frozen
class Completion:
    """``finish``: ``stop`` (end of turn or a stop string) or ``length``. Token counts; wall seconds."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@frozen
class Passage:
    """A chunk that was found: document id, title, text, character offsets in the document, score; the page on which it
    begins, from 1, or 0 where the document has no pages."""

    document: str
    chunk: int
    title: str
    text: str
    start: int
    end: int
    score: float
    page: int = 0


@frozen
class Parameter:
    """One argument of a tool. ``pattern`` is a regular expression over the whole value (strings only)."""

    name: str
    type: Literal["string", "number", "integer", "boolean"] = "string"
    description: str = ""
    pattern: str | None = None


@frozen
class ToolSchema:
    """How a tool is named and called."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]


@frozen
class Observation:
    """What a tool says: one line of text, and the passages it came from (for citations)."""

    text: str
    passages: tuple[Passage, ...] = ()
    error: bool = False


@frozen
class Call:
    """One action of an agent and what came of it. ``repeated`` marks an identical call that was cut."""

    thought: str
    tool: str
    arguments: Mapping[str, Json]
    observation: str
    error: bool = False
    repeated: bool = False


@frozen
class Citation:
    """A cited document, with the passage's place in it (see :class:`Passage`)."""

    document: str
    title: str
    start: int
    end: int
    page: int = 0


@frozen
class Answer:
    """``outcome``: answered, handed_over (text is the reason), or gave_up (limits, unparsable output)."""

    text: str
    outcome: Literal["answered", "handed_over", "gave_up"]
    calls: tuple[Call, ...] = ()
    citations: tuple[Citation, ...] = ()
    completion_tokens: int = 0
    seconds: float = 0.0
