"""400 short dialogues out of the recipe service-desk, with its system prompt or with a line of their own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from inhouse_torch.packing import Sample

from .measure import ROOT

RECIPE = ROOT / "contrib" / "recipes" / "service-desk"
COUNT = 400
CONTENT_TOKENS = 110
"""Those nearest to this length are taken; the template adds about 15 tokens."""

Dialogue = list[dict[str, str]]


def dialogues(tokenizer: Any) -> dict[str, list[Dialogue]]:
    """``shared``: all begin with the recipe's system prompt; ``own``: each begins with another short line.

    A line of its own, because the model's template puts one system message before all that have none.
    """
    with (RECIPE / "train.jsonl").open(encoding="utf-8") as lines:
        found = [json.loads(line)["messages"] for line in lines]
    lengths = [sum(len(tokenizer(m["content"])["input_ids"]) for m in messages) for messages in found]
    nearest = sorted(range(len(found)), key=lambda row: (abs(lengths[row] - CONTENT_TOKENS), row))[:COUNT]
    taken = [found[row] for row in sorted(nearest)]
    prompt = (RECIPE / "system.txt").read_text(encoding="utf-8").strip()
    tickets = random.Random(0).sample(range(1000), COUNT)
    return {
        "shared": [[_system(prompt), *messages] for messages in taken],
        "own": [
            [_system(f"{ticket:03d} is the ticket. Answer in two lines."), *messages]
            for ticket, messages in zip(tickets, taken, strict=True)
        ],
    }


def _system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def write(folder: Path, rows: list[Dialogue], samples: list[Sample], order: list[int]) -> None:
    """``train.jsonl`` as our trainer reads it; ``tokens.jsonl`` for peers, in the order in which ours trains.

    A row of the latter has ``input_ids`` and ``labels`` (-100 where nothing is learned).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    with (folder / "tokens.jsonl").open("w") as file:
        for row in order:
            ids, learn = samples[row].ids, samples[row].learn
            labels = [token if wanted else -100 for token, wanted in zip(ids, learn, strict=True)]
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
