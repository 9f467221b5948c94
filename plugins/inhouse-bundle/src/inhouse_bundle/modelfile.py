"""A Modelfile, so that Ollama runs the same model with the same template, stop token and context.

Ollama guesses a template it does not know by edit distance; so ours is written out, or its absence is said.
"""

from __future__ import annotations

from pathlib import Path

from .gguf_file import Chat
from .ollama import OllamaTemplate, ollama_template

GGUF = "model.gguf"


def modelfile(model: Path, chat: Chat, *, context: int, system: str | None) -> str:
    """The text for a bundle whose GGUF is ``model`` and says ``chat``; ``system`` is the agent's system message."""
    found = ollama_template(chat)
    lines = [f"FROM ./{model.parent.name}/{model.name}", *_template(found)]
    stops = (found.stop, chat.end_of_turn, chat.eos)
    lines += [f'PARAMETER stop "{stop}"' for stop in dict.fromkeys(stops) if _quotable(stop)]
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0"]
    if system is not None and not found.system:
        lines.append("# No SYSTEM: the model's chat template refuses system messages.")
    elif system is not None:
        lines.append(
            f'SYSTEM """{system}"""' if _fits(system) else "# No SYSTEM: the text has quotes that end it early."
        )
    lines.append("# Ollama runs the model alone: tools and knowledge base answer in `inhouse ask --bundle .`")
    return "\n".join(lines) + "\n"


def _template(found: OllamaTemplate) -> list[str]:
    """The lines of the template, and what is to be known of it."""
    if found.text and _fits(found.text):
        return [f'TEMPLATE """{found.text}"""', *(f"# {each}" for each in found.limits)]
    why = found.why or "the chat template has quotes that end it early"
    return [
        f"# No TEMPLATE: {why}, and Ollama will guess one.",
        "# Compare its prompts with tokenizer.chat_template in the GGUF before you rely on it.",
    ]


def _fits(text: str) -> bool:
    return '"""' not in text and not text.endswith('"')


def _quotable(text: str) -> bool:
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text
