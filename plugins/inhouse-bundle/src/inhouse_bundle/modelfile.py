"""A Modelfile, so that Ollama runs the same model with the same template, stop token and context.

Ollama guesses a template it does not know by edit distance; so ours is written out, or its absence is said.
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen
from gguf import GGUFReader

from inhouse.errors import ArtifactError

from .chatml import is_chatml

GGUF = "model.gguf"
_CHATML = '''TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""'''


@frozen
class Chat:
    """What a GGUF says of talking with its model; empty strings where it says nothing."""

    template: str
    bos: str
    eos: str
    end_of_turn: str


def read_chat(path: Path) -> Chat:
    """Chat template and special tokens of a GGUF. Raises ``ArtifactError`` when it is none."""
    try:
        reader = GGUFReader(path)
        template = _value(reader, "tokenizer.chat_template")
        bos, eos, eot = (_token(reader, name) for name in ("bos", "eos", "eot"))
    except Exception as error:
        raise ArtifactError(f"cannot be read as GGUF: {error}", where=str(path)) from error
    return Chat(template if isinstance(template, str) else "", bos, eos, eot)


def modelfile(model: Path, *, context: int, system: str | None) -> str:
    """The text for a bundle whose GGUF is ``model``; ``system`` is the agent's system message."""
    chat = read_chat(model)
    lines = [f"FROM ./{model.parent.name}/{model.name}"]
    if is_chatml(chat.template, chat.bos, chat.eos):
        lines.append(_CHATML)
        stops = ["<|im_end|>", chat.end_of_turn, chat.eos]
    else:
        lines.append("# No TEMPLATE: the model's chat template is not ChatML, and Ollama will guess one.")
        lines.append("# Compare its prompts with tokenizer.chat_template in the GGUF before you rely on it.")
        stops = [chat.end_of_turn, chat.eos]
    lines += [f'PARAMETER stop "{stop}"' for stop in dict.fromkeys(stops) if _quotable(stop)]
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0"]
    if system is not None:
        fits = '"""' not in system and not system.endswith('"')
        lines.append(f'SYSTEM """{system}"""' if fits else "# No SYSTEM: the text has quotes that end it early.")
    lines.append("# Ollama runs the model alone: tools and knowledge base answer in `inhouse ask --bundle .`")
    return "\n".join(lines) + "\n"


def _quotable(text: str) -> bool:
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text


def _value(reader: GGUFReader, key: str) -> object:
    found = reader.fields.get(key)
    return None if found is None else found.contents()


def _token(reader: GGUFReader, name: str) -> str:
    """The text of a special token, '' when the file names none."""
    number, tokens = (
        _value(reader, f"tokenizer.ggml.{name}_token_id"),
        reader.fields.get("tokenizer.ggml.tokens"),
    )
    if not isinstance(number, int) or tokens is None or not 0 <= number < len(tokens.data):
        return ""
    return str(tokens.contents(number))
