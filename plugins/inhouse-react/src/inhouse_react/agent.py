"""The agent: a dialogue that asks for turns, calls tools, and ends with an answer. No engine inside."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, field

from inhouse.errors import DataError, InhouseError, PluginError, RecipeError
from inhouse.protocols import Dialogue, Tool
from inhouse.values import Answer, Call, Completion, Message, Observation, Passage, Request

from . import ReactOptions
from .grammar import HAND_OVER, build_grammar, check_schemas
from .text import harmless, one_line, resolve_citations
from .turn import Action, Final, Turn, Unreadable, parse_turn

STOP = ("\nObservation:", "\nThought:")  # a model that goes on alone plays the tools' part itself
_LONGEST_SYSTEM = 100_000  # characters


@define
class _Talk:
    """What has been said so far in one dialogue."""

    messages: list[Message]
    calls: list[Call] = field(factory=list)
    seen: dict[str, Passage] = field(factory=dict)
    times: Counter[str] = field(factory=Counter)
    corrected: bool = False
    tokens: int = 0
    seconds: float = 0.0

    def hear(self, completion: Completion) -> None:
        self.tokens += completion.completion_tokens
        self.seconds += completion.seconds
        self.messages.append(Message("assistant", harmless(completion.text.strip())))

    def observe(self, text: str) -> None:
        self.messages.append(Message("user", f"Observation: {text}"))

    def answered(self, text: str) -> Answer:
        cleaned, citations = resolve_citations(text, self.seen)
        return Answer(cleaned, "answered", tuple(self.calls), citations, self.tokens, self.seconds)

    def handed_over(self, reason: str) -> Answer:
        return Answer(reason, "handed_over", tuple(self.calls), (), self.tokens, self.seconds)

    def gave_up(self, why: str) -> Answer:
        return Answer(f"no answer: {why}", "gave_up", tuple(self.calls), (), self.tokens, self.seconds)


class React:
    """Agent ``react``. Made once per recipe or bundle; each ``start`` is independent of the others.

    Raises ``DataError`` when the system text cannot be read, ``RecipeError`` when it does not name a tool
    that the agent has, or when a schema does not fit a turn.
    """

    def __init__(self, options: ReactOptions, tools: Mapping[str, Tool]) -> None:
        self.options = options
        self.tools = dict(tools)
        schemas = [tool.schema for tool in self.tools.values()]
        if options.hand_over:
            if HAND_OVER.name in self.tools:
                raise RecipeError(
                    f"a tool is called '{HAND_OVER.name}', which the agent has built in",
                    where="agent.tools",
                    hint="rename the tool, or set hand_over = false",
                )
            schemas.append(HAND_OVER)
        check_schemas(schemas)
        self.names = [schema.name for schema in schemas]
        self.system = _read_system(options.system, self.names)
        self.grammar = build_grammar(schemas) if options.grammar else None

    def start(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        examples: Sequence[Message] = (),
        grammar: bool = False,
    ) -> Dialogue:
        """Begins one answer; see :class:`inhouse.protocols.Agent`. Tools are called as the turns come."""
        asked = [*history, Message("user", question.strip())]
        heard = [Message(turn.role, harmless(turn.content)) for turn in asked]
        talk = _Talk([Message("system", self.system), *examples, *heard])
        for _ in range(self.options.max_steps):
            left = self.options.total_tokens - talk.tokens
            if left <= 0:
                return talk.gave_up(f"more than {self.options.total_tokens} tokens")
            if talk.seconds > self.options.time_limit:
                return talk.gave_up(f"more than {self.options.time_limit:g} seconds")
            request = Request(
                messages=tuple(talk.messages),
                max_tokens=min(self.options.max_tokens, left),
                stop=STOP,
                grammar=self.grammar if grammar else None,
            )
            try:
                completion = yield request
            except RecipeError as error:  # thrown in by a driver: the dialogue no longer fits the context
                if not talk.tokens:
                    raise
                return talk.gave_up(error.message)
            talk.hear(completion)
            answer = self._follow(talk, _read(completion))
            if answer is not None:
                return answer
        return talk.gave_up(f"no final answer in {self.options.max_steps} steps")

    def _follow(self, talk: _Talk, turn: Turn) -> Answer | None:
        """Does what the turn says; an answer ends the dialogue."""
        if isinstance(turn, Final):
            return talk.answered(turn.text)
        if isinstance(turn, Unreadable):
            if talk.corrected:
                return talk.gave_up(f"two turns could not be read, the last: {turn.reason}")
            talk.corrected = True
            talk.observe(
                f"error: {turn.reason}. Write 'Thought:' and a thought on one line; on the next 'Action:' and "
                f"one of {', '.join(self.names)} with its arguments, or 'Final:' and the answer."
            )
            return None
        if self.options.hand_over and turn.tool == HAND_OVER.name:
            reason = turn.arguments.get("reason")
            return talk.handed_over(one_line(str(reason or turn.thought), self.options.observation_limit))
        return self._act(talk, turn)

    def _act(self, talk: _Talk, action: Action) -> Answer | None:
        key = action.tool + json.dumps(dict(action.arguments), sort_keys=True)
        talk.times[key] += 1
        if talk.times[key] > 2:
            return talk.gave_up(f"the same call of '{action.tool}' three times")
        repeated = talk.times[key] == 2
        if repeated:
            observation = Observation("error: this call was made before, its observation is above", error=True)
        else:
            observation = self._call(action)
        line = one_line(observation.text, self.options.observation_limit)
        for passage in observation.passages:
            if passage.document in line:  # a passage that was cut off was not seen
                talk.seen.setdefault(passage.document, passage)
        talk.calls.append(Call(action.thought, action.tool, action.arguments, line, observation.error, repeated))
        talk.observe(line)
        return None

    def _call(self, action: Action) -> Observation:
        tool = self.tools.get(action.tool)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            return Observation(f"error: there is no tool '{action.tool}'; the tools are: {known}", error=True)
        try:
            return tool.call(action.arguments)
        except InhouseError:
            raise
        except Exception as error:
            raise PluginError(
                f"the tool '{action.tool}' raised {type(error).__name__}: {error}",
                where=f"tools.{action.tool}",
                hint="a tool has to answer bad arguments with an error observation",
            ) from error


def _read(completion: Completion) -> Turn:
    turn = parse_turn(completion.text)
    if isinstance(turn, Final) and completion.finish == "length":
        return Unreadable("the answer was cut off, it is too long")
    return turn


def _read_system(path: Path, tools: Sequence[str]) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the system message: {error}",
            where=str(path),
            hint="name a UTF-8 text file in [agent.react] system",
        ) from error
    if not text or len(text) > _LONGEST_SYSTEM:
        raise DataError(f"the system message has {len(text)} characters", where=str(path))
    for tool in tools:
        if not re.search(rf"(?<![\w-]){re.escape(tool)}(?![\w-])", text):
            raise RecipeError(
                f"the system message does not name the tool '{tool}'",
                where=str(path),
                hint=f"describe '{tool}' there, or take it out of the agent",
            )
    return text
