"""Renders the chat template of a model that nobody has to trust, in a child process: a sandbox does not bound time
or memory.

stdin: {"template", "bos_token", "eos_token", "probes"}; stdout: a JSON list, for each probe its text or null.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from attrs import asdict, frozen
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SECONDS = 10
_BYTES = 2 << 30
_LONGEST = 100_000  # characters of one text
_DAYS = (datetime(2001, 2, 3, 4, 5), datetime(2022, 11, 30, 23, 59))


@frozen
class Probe:
    """A chat to render: (role, content) of each turn; ``generate``: the opening of an answer too; ``day``: on which
    of two days, 0 or 1."""

    turns: tuple[tuple[str, str], ...]
    generate: bool = True
    day: int = 0


def rendered(template: str, bos: str, eos: str, probes: Sequence[Probe]) -> list[str | None]:
    """The texts; None where the template refuses or fails, and for all where it takes too much time or memory."""
    asked = {"template": template, "bos_token": bos, "eos_token": eos, "probes": [asdict(each) for each in probes]}
    nothing: list[str | None] = [None] * len(probes)
    try:
        done = subprocess.run(  # noqa: S603  (our own module, no input in the command)
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=6 * _SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return nothing
    return nothing if done.returncode != 0 else [*json.loads(done.stdout)]


class _Generation(Extension):
    """``{% generation %}`` marks what is learned; rendering passes the mark over."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def texts(template: str, bos: str, eos: str, probes: Sequence[Probe]) -> list[str | None]:
    """As :func:`rendered`, here: as transformers renders, but on a given day."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    made = environment.from_string(template)
    found: list[str | None] = []
    for probe in probes:
        try:
            text = made.render(
                messages=[{"role": role, "content": content} for role, content in probe.turns],
                add_generation_prompt=probe.generate,
                tools=None,
                documents=None,
                bos_token=bos,
                eos_token=eos,
                strftime_now=_DAYS[probe.day].strftime,
            )
            found.append(text if len(text) <= _LONGEST else None)
        except Exception:  # a hostile template can raise anything
            found.append(None)
    return found


def _limit() -> None:
    """Bounds time and memory, where the system can."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        for limit, value in ((resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_AS, _BYTES)):
            with contextlib.suppress(ValueError, OSError):  # macOS refuses some; the parent's timeout stays
                resource.setrlimit(limit, (value, value))


def main() -> None:
    """The child process."""
    _limit()
    asked = json.load(sys.stdin)
    probes = [Probe(tuple((r, c) for r, c in each["turns"]), each["generate"], each["day"]) for each in asked["probes"]]
    found = texts(asked["template"], asked["bos_token"], asked["eos_token"], probes)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
