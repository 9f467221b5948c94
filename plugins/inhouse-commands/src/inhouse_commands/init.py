"""``inhouse init``"""

from __future__ import annotations

from pathlib import Path

import click

from inhouse.artifacts import write_text
from inhouse.errors import RecipeError

FILES = {
    "recipe.toml": """\
# From a raw model to a specialist for your documents. Next: inhouse plan, then inhouse run.
seed = 7

[target]                     # the machine that will answer
memory = "2GiB"
context = 1024

[base]
use = "smollm2"              # or "local", with the path of a folder of safetensors

[data]
use = "jsonl"
[data.jsonl]
chat = "train.jsonl"         # dialogues, one a line; a few hundred teach a small model its job
corpus = "knowledge"         # Markdown or text files
system = "system.txt"        # put before every dialogue

[finetune]
use = "lora"

[quantize]
use = "gguf"                 # or "bitsandbytes", or yours: the only word to change

[knowledge]
use = "sqlite"

[agent]
use = "react"
tools = ["search_knowledge"]
[agent.react]
system = "system.txt"

[gates]
use = "gates"                # the quantised model fits [target] and is still the tuned one, or the run ends

[bundle]
use = "folder"
""",
    "system.txt": """\
Answer with the tool search_knowledge {"query": "..."}. Say what you think, then act:
Thought: ...
Action: search_knowledge {"query": "..."}
or, when you know:
Thought: ...
Final: the answer, with its source [document].
""",
    "knowledge/returns.md": "# Returns\n\nGoods can be returned within 30 days.\n",
    "train.jsonl": """\
{"messages": [{"role": "user", "content": "How long can I return goods?"}, {"role": "assistant", "content": \
"Thought: Search.\\nAction: search_knowledge {\\"query\\": \\"return goods\\"}"}, {"role": "user", "content": \
"Observation: [returns] Returns: Goods can be returned within 30 days."}, {"role": "assistant", "content": \
"Thought: The article says it.\\nFinal: Within 30 days. [returns]"}]}
""",
}


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write a recipe to start from into FOLDER, with a tiny example of each data file."""
    for name in FILES:
        if (folder / name).exists():
            raise RecipeError("exists already; nothing was written", where=str(folder / name), hint="inhouse init NEW")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)
        click.echo(str(folder / name))
