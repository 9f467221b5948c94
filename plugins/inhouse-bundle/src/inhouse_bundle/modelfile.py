"""A Modelfile, so that Ollama runs the same model with the same template, stop token and context.

Ollama guesses a template it does not know by edit distance; so ours is written out, or its absence is said.
"""

from __future__ import annotations

from pathlib import Path

from .chatml import is_chatml
from .gguf_file import Chat

GGUF = "model.gguf"
_CHATML = '''TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""'''


def modelfile(model: Path, chat: Chat, *, context: int, system: str | None) -> str:
    """The text for a bundle whose GGUF is ``model`` and says ``chat``; ``system`` is the agent's system message."""
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
