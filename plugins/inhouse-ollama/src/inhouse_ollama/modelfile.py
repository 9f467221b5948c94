"""A bundle's Modelfile read back: what Ollama is asked to make is what the bundle says, to the letter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from inhouse.errors import ArtifactError

MODELFILE = "Modelfile"

Value = int | float | str | list[str]
"""A parameter's; ``stop`` has a list."""

_INSTRUCTION = re.compile(
    r'#[^\n]*\n|FROM (?P<file>[^\n]+)\n|(?P<text>TEMPLATE|SYSTEM) """(?P<value>.*?)"""\n'
    r"|PARAMETER (?P<name>\w+) (?P<setting>[^\n]+)\n",
    re.DOTALL,
)


@frozen
class Wanted:
    """What a Modelfile asks for; ``None`` where it says nothing. ``file`` is the GGUF, absolute."""

    file: Path
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Value] = field(factory=dict)


def read_modelfile(folder: Path) -> Wanted:
    """That of the bundle in ``folder``. Raises ``ArtifactError`` when it is none that inhouse-bundle writes."""
    path = folder / MODELFILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"cannot be read: {error}", where=str(path)) from error
    file, texts, parameters, at = None, {}, dict[str, Value](), 0
    while at < len(text):
        found = _INSTRUCTION.match(text, at)
        if found is None:
            raise ArtifactError("is no instruction that a bundle has", where=f"{path}:{text.count(chr(10), 0, at) + 1}")
        at = found.end()
        if found["file"]:
            file = folder / found["file"]
        elif found["text"]:
            texts[found["text"]] = found["value"]
        elif found["name"] == "stop":
            stops = parameters.setdefault("stop", [])
            assert isinstance(stops, list)
            stops.append(_unquoted(found["setting"]))
        elif found["name"]:
            parameters[found["name"]] = _number(found["setting"])
    if file is None or not file.is_file():
        raise ArtifactError("names no file that is there", where=str(path))
    return Wanted(file, texts.get("TEMPLATE"), texts.get("SYSTEM"), parameters)


def _unquoted(text: str) -> str:
    """Without the quotes around it; as in Ollama there are no escapes."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _number(text: str) -> Value:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _unquoted(text)
