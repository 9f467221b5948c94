"""What a server says that it holds, against what it was asked to make."""

from __future__ import annotations

import json
import re

from attrs import frozen

from .modelfile import Value, Wanted
from .words import shown

_FROM = re.compile(r"^FROM .*?sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)
_LINE = re.compile(r"^(\w+)[ \t]+(.*?)[ \t]*$")


@frozen
class Held:
    """A model as ``/api/show`` tells it. ``parameters`` are texts as they were set, several for ``stop``; ``blob`` is
    the SHA-256 of the model's file there, ``None`` where the server does not say."""

    template: str
    modelfile: str
    parameters: dict[str, list[str]]
    blob: str | None


def read_held(template: str | None, modelfile: str | None, parameters: str | None) -> Held:
    """From the fields of the answer."""
    found: dict[str, list[str]] = {}
    for line in (parameters or "").splitlines():
        split = _LINE.match(line)
        if split:
            found.setdefault(split[1], []).append(_plain(split[2]))
    digest = _FROM.search(modelfile or "")
    return Held(template or "", modelfile or "", found, digest[1] if digest else None)


def differences(wanted: Wanted, held: Held, own_template: str) -> list[str]:
    """What is not as it was asked for, one line each; the file apart, see ``Held.blob``.

    ``own_template`` is that of the GGUF. Newer versions of Ollama use it, and show it, in place of a ``TEMPLATE``
    that knows less (of tools): then the server asks as the model was trained, and that is no difference.
    """
    found = []
    if wanted.template is not None and held.template not in (wanted.template, own_template):
        found.append(f"another template: {shown(held.template, 80)!r}")
    if wanted.system is not None and wanted.system not in held.modelfile:
        found.append("not the system message")
    for name, value in wanted.parameters.items():
        there = held.parameters.get(name, [])
        if not _same(value, there):
            found.append(f"{name} {shown(', '.join(there), 80) or 'not set'} instead of {_text(value)}")
    return found


def _same(value: Value, there: list[str]) -> bool:
    if isinstance(value, list):
        return value == there
    if len(there) != 1:
        return False
    if isinstance(value, str):
        return value == there[0]
    try:
        return float(there[0]) == float(value)
    except ValueError:
        return False


def _text(value: Value) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _plain(text: str) -> str:
    """A value without the quotes that the server puts around strings (Go's, which are JSON's for printable text)."""
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')
