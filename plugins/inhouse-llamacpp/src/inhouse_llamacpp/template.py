"""Renders a model's chat template in a sandbox, as transformers renders it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inhouse.errors import DataError, RecipeError

SECONDS = 5.0
"""A template that takes longer never ends."""


class TemplateRefused(jinja2.TemplateError):
    """What ``raise_exception`` of a template raises."""


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; rendering ignores the mark."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raises ``TimeoutError`` in the main thread after ``seconds``, where the system has timers (not Windows)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class ChatTemplate:
    """A template of a model nobody has to trust. ``bos`` and ``eos`` are the texts of those tokens."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise DataError(f"the model's chat template is broken: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tools: Sequence[Any] = ()
    ) -> str:
        """The prompt's text. Raises ``RecipeError`` when the template refuses the messages, ``DataError`` when it
        fails, tries what the sandbox forbids, or does not end."""
        try:
            with _limit(SECONDS):
                return self._template.render(
                    messages=[dict(each) for each in messages],
                    add_generation_prompt=add_generation_prompt,
                    tools=list(tools) or None,
                    documents=None,
                    **self._tokens,
                )
        except TemplateRefused as error:
            raise RecipeError(f"the model's chat template refuses these messages: {error}") from error
        except TimeoutError:
            raise DataError(f"the model's chat template did not end within {SECONDS:g} seconds") from None
        except Exception as error:  # a hostile template can raise anything; it must not end the engine
            raise DataError(f"the model's chat template failed: {error}") from error
