"""The agent ``react``: thought, action, observation, final answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen, validators

from inhouse import AgentSpec, hookimpl

_positive = validators.gt(0)


@frozen
class ReactOptions:
    """How the agent talks, and when it stops."""

    system: Path = field(metadata={"help": "text file with the system message; it names every tool"})
    hand_over: bool = field(default=True, metadata={"help": "may hand a question over to a person"})
    grammar: bool = field(default=True, metadata={"help": "hold turns to a grammar where the engine can"})
    max_steps: int = field(default=5, validator=_positive, metadata={"help": "turns of the model per answer"})
    max_tokens: int = field(default=96, validator=_positive, metadata={"help": "tokens per turn"})
    total_tokens: int = field(
        default=400, validator=_positive, metadata={"help": "generated tokens per answer, all turns"}
    )
    time_limit: float = field(
        default=600.0, validator=validators.gt(0), metadata={"help": "seconds of generation per answer"}
    )
    observation_limit: int = field(
        default=600,
        validator=_positive,
        metadata={"help": "characters of an observation that are shown"},
    )


@hookimpl
def inhouse_agents() -> Iterator[AgentSpec]:
    """Declares the agent."""
    yield AgentSpec(
        name="react",
        summary="ReAct: a short thought, then one action or the final answer with citations",
        factory="inhouse_react.agent:React",
        options=ReactOptions,
    )
